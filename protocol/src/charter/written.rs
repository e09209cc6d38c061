//! The text of a charter.

use conclave_crypto::mask::Prg;

use super::{Admission, Charter, Combination, Lora, Method, Targets};

/// The text of a charter, everything written out.
pub(super) fn write(charter: &Charter) -> String {
    let Charter {
        federation,
        model,
        adapter,
        round,
        aggregation,
        admission,
        members,
    } = charter;
    let terms = terms(&adapter.method);
    let timers = join(
        round
            .timers
            .named()
            .map(|(key, span)| format!("{key} = {}\n", span.0)),
    );
    let founders = join(members.iter().map(|member| {
        let (name, key) = (quoted(&member.name), member.key);
        format!("\n[[members]]\nname = {name}\nkey = \"{key}\"\n")
    }));
    let prg = match aggregation.prg {
        Prg::ChaCha20 => "chacha20",
        Prg::Aes256Ctr => "aes256ctr",
    };
    let mode = match admission {
        Admission::Closed => "closed",
        Admission::Invite => "invite",
    };
    format!(
        "[federation]\nname = {}\nprotocol = {}\nnonce = \"{}\"\n\n\
         [model]\ndigest = \"{}\"\narchitecture = {}\n\n\
         [adapter]\nmethod = \"{}\"\n{terms}seed = {}\n\n\
         [round]\nrounds = {}\nlocal_steps = {}\n{timers}\n\
         [aggregation]\nmin_survivors = {}\nmembers_max = {}\ncorruption = \"{}\"\nclip = \"{}\"\n\
         weight_max = {}\nweight_unit = {}\nring_bits = {}\nprg = \"{prg}\"\ninline_limit = {}\n\
         replicas = {}\nabsent_rounds = {}\n\n\
         [admission]\nmode = \"{mode}\"\n{founders}",
        quoted(&federation.name),
        federation.protocol,
        hex::encode(federation.nonce),
        model.digest,
        quoted(&model.architecture),
        adapter.method.name(),
        adapter.seed,
        round.rounds,
        round.local_steps,
        aggregation.min_survivors,
        aggregation.members_max,
        aggregation.corruption,
        aggregation.clip,
        aggregation.weight_max,
        aggregation.weight_unit,
        aggregation.ring_bits,
        aggregation.inline_limit,
        aggregation.replicas,
        aggregation.absent_rounds,
    )
}

/// What belongs to a method.
fn terms(method: &Method) -> String {
    match method {
        Method::Lora(lora) => {
            let targets = match &lora.target_modules {
                Targets::AllLinear => quoted("all-linear"),
                Targets::Named(names) => {
                    let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
                    format!("[{}]", names.join(", "))
                }
            };
            let combination = match lora.aggregation {
                Combination::Alternating => "alternating",
            };
            format!(
                "lora_r = {}\nlora_alpha = {}\ntarget_modules = {targets}\n{}aggregation = \"{combination}\"\n",
                lora.r,
                lora.alpha,
                more(lora)
            )
        }
        Method::Bottleneck(bottleneck) => format!(
            "bottleneck_size = {}\nnon_linearity = \"{}\"\n",
            bottleneck.size, bottleneck.non_linearity
        ),
        Method::Prompt(prompt) => {
            let text = prompt.init_text.iter();
            let text = text.map(|text| format!("prompt_tuning_init_text = {}\n", quoted(text)));
            format!(
                "num_virtual_tokens = {}\n{}",
                prompt.virtual_tokens,
                join(text)
            )
        }
    }
}

/// What departs from plain LoRA.
fn more(lora: &Lora) -> String {
    let rslora = lora.rslora.then(|| "use_rslora = true\n".to_owned());
    let patterns = [
        ("rank_pattern", &lora.rank_pattern),
        ("alpha_pattern", &lora.alpha_pattern),
    ];
    let patterns = patterns
        .into_iter()
        .filter(|(_, pattern)| !pattern.is_empty());
    let patterns = patterns.map(|(key, pattern)| {
        let entries: Vec<String> = pattern
            .iter()
            .map(|(name, n)| format!("{} = {n}", quoted(name)))
            .collect();
        format!("{key} = {{ {} }}\n", entries.join(", "))
    });
    join(rslora.into_iter().chain(patterns))
}

fn join(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().collect()
}

/// A TOML string with its escapes.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
