//! The canonical bytes of a charter: numbers little-endian, texts behind their length, everything in one fixed order.

use std::collections::BTreeMap;

use conclave_crypto::digest::Digest;
use conclave_crypto::fraction::Fraction;
use conclave_crypto::mask::Prg;

use super::{Admission, Charter, Combination, Lora, Method, NonLinearity, Targets};

/// `SHA-256("conclave/v1/charter" ‖ bytes)`
pub(super) fn digest(charter: &Charter) -> Digest {
    Digest::of("conclave/v1/charter", &[&encode(charter)])
}

fn encode(charter: &Charter) -> Vec<u8> {
    let mut bytes = Bytes(Vec::new());
    let federation = &charter.federation;
    bytes.text(&federation.name);
    bytes.number(federation.protocol.into());
    bytes.0.extend_from_slice(&federation.nonce);
    bytes.0.extend_from_slice(charter.model.digest.as_bytes());
    bytes.text(&charter.model.architecture);

    let adapter = &charter.adapter;
    bytes.method(&adapter.method);
    bytes.number(adapter.seed);

    bytes.number(charter.round.rounds.into());
    bytes.number(charter.round.local_steps.into());
    for (_, span) in charter.round.timers.named() {
        bytes.number(span.0);
    }

    let aggregation = &charter.aggregation;
    bytes.number(aggregation.min_survivors.into());
    bytes.number(aggregation.members_max.into());
    bytes.fraction(&aggregation.corruption);
    bytes.fraction(&aggregation.clip);
    bytes.number(aggregation.weight_max.into());
    bytes.number(aggregation.weight_unit);
    bytes.number(aggregation.ring_bits.into());
    bytes.number(match aggregation.prg {
        Prg::ChaCha20 => 0,
        Prg::Aes256Ctr => 1,
    });
    bytes.number(aggregation.inline_limit);
    bytes.number(aggregation.replicas.into());
    bytes.number(aggregation.absent_rounds.into());

    bytes.number(match charter.admission {
        Admission::Closed => 0,
        Admission::Invite => 1,
    });
    bytes.count(charter.members.len());
    for member in &charter.members {
        bytes.text(&member.name);
        bytes.0.extend_from_slice(member.key.as_bytes());
    }
    bytes.0
}

struct Bytes(Vec<u8>);

impl Bytes {
    fn method(&mut self, method: &Method) {
        match method {
            Method::Lora(lora) => {
                let plain =
                    !lora.rslora && lora.rank_pattern.is_empty() && lora.alpha_pattern.is_empty();
                self.number(if plain { 0 } else { 3 });
                self.lora(lora);
                if !plain {
                    self.number(lora.rslora.into());
                    self.pattern(&lora.rank_pattern);
                    self.pattern(&lora.alpha_pattern);
                }
            }
            Method::Bottleneck(bottleneck) => {
                self.number(1);
                self.number(bottleneck.size.into());
                self.number(match bottleneck.non_linearity {
                    NonLinearity::Relu => 0,
                    NonLinearity::Gelu => 1,
                    NonLinearity::Silu => 2,
                    NonLinearity::Tanh => 3,
                });
            }
            Method::Prompt(prompt) => {
                self.number(2);
                self.number(prompt.virtual_tokens.into());
                self.number(u64::from(prompt.init_text.is_some()));
                self.text(prompt.init_text.as_deref().unwrap_or_default());
            }
        }
    }

    fn lora(&mut self, lora: &Lora) {
        self.number(lora.r.into());
        self.number(lora.alpha.into());
        match &lora.target_modules {
            Targets::AllLinear => self.number(0),
            Targets::Named(names) => {
                self.count(names.len());
                for name in names {
                    self.text(name);
                }
            }
        }
        self.number(match lora.aggregation {
            Combination::Alternating => 0,
        });
    }

    fn pattern(&mut self, pattern: &BTreeMap<String, u32>) {
        self.count(pattern.len());
        for (key, number) in pattern {
            self.text(key);
            self.number((*number).into());
        }
    }

    fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(u64::try_from(count).expect("a length fits 64 bits"));
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    /// In lowest terms, so that `0.2` and `0.20` are one charter.
    fn fraction(&mut self, fraction: &Fraction) {
        let divisor = common_divisor(fraction.numerator(), fraction.denominator());
        self.number(fraction.numerator().checked_div(divisor).unwrap_or(0));
        self.number(fraction.denominator().checked_div(divisor).unwrap_or(0));
    }
}

/// Euclid's.
fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a.checked_rem(b).unwrap_or(0));
    }
    a
}
