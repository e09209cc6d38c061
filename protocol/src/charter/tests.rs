//! Charters that are taken, and charters that are not.

use conclave_crypto::sign::IdentityKey;

use super::*;

/// Five founders under default terms; keys from fixed seeds.
fn sample() -> Charter {
    let members: Vec<Founder> = (1..=5)
        .map(|i| Founder {
            name: format!("clinic-{i}"),
            key: IdentityKey::from_bytes(&[i; 32]).public(),
        })
        .collect();
    Charter {
        federation: Federation {
            name: "north \"wards\"".to_owned(),
            protocol: 1,
            nonce: [7; 32],
        },
        model: Model {
            digest: Digest([9; 32]),
            architecture: "llama".to_owned(),
        },
        adapter: Adapter {
            method: Method::default(),
            seed: 1,
        },
        round: Rounds {
            rounds: 6,
            local_steps: 20,
            timers: Timers::default(),
        },
        aggregation: Aggregation::default(),
        admission: Admission::Closed,
        members,
    }
}

#[test]
fn a_written_charter_reads_the_same() {
    let mut charter = sample().checked().unwrap();
    assert_eq!(Charter::parse(&charter.to_toml()).unwrap(), charter);
    charter.adapter.method = Method::Lora(Lora {
        target_modules: Targets::Named(vec!["k_proj".into(), "q_proj".into()]),
        ..Lora::default()
    });
    let mut seen = std::collections::BTreeSet::from([charter.digest()]);
    let pattern = |names: &[(&str, u32)]| {
        names
            .iter()
            .map(|(name, n)| ((*name).to_owned(), *n))
            .collect()
    };
    for (rslora, ranks, alphas) in [
        (true, &[][..], &[][..]),
        (false, &[("mlp.down_proj", 4), ("q_proj", 16)], &[]),
        (false, &[], &[("mlp.down_proj", 4), ("q_proj", 16)]),
        (true, &[("q_proj", 16)], &[("q_proj", 4)]),
        (true, &[("q_proj", 16)], &[("q_proj", 5)]),
    ] {
        let Method::Lora(lora) = &mut charter.adapter.method else {
            panic!("it is LoRA");
        };
        (lora.rslora, lora.rank_pattern, lora.alpha_pattern) =
            (rslora, pattern(ranks), pattern(alphas));
        let again = Charter::parse(&charter.to_toml()).unwrap();
        assert_eq!(again, charter);
        assert!(seen.insert(again.digest()), "{}", charter.to_toml());
    }
    let said = charter
        .to_toml()
        .replacen("\"q_proj\" = 16", "\"q_proj\" = 0", 1);
    let said = Charter::parse(&said).unwrap_err().to_string();
    assert!(
        said.contains("rank_pattern = 0: it must be from 1 to 1024"),
        "{said}"
    );
    charter.admission = Admission::Invite;
    charter.aggregation.prg = Prg::Aes256Ctr;
    charter.round.timers = Timers::testnet();
    let again = Charter::parse(&charter.to_toml()).unwrap();
    assert_eq!(again, charter);
    assert_eq!(again.digest(), charter.digest());
}

#[test]
fn the_digest_is_stable_and_sees_every_term() {
    let charter = sample();
    assert_eq!(charter.digest().to_string(), DIGEST);
    let text = charter.to_toml();
    let mut seen = std::collections::BTreeSet::from([charter.digest()]);
    for (from, to) in [
        ("north", "south"),
        ("nonce = \"07", "nonce = \"17"),
        ("digest = \"09", "digest = \"19"),
        ("\"llama\"", "\"gpt\""),
        ("lora_r = 8", "lora_r = 9"),
        ("lora_alpha = 16", "lora_alpha = 17"),
        ("\"all-linear\"", "[\"q_proj\"]"),
        ("seed = 1", "seed = 2"),
        ("rounds = 6", "rounds = 7"),
        ("local_steps = 20", "local_steps = 21"),
        ("genesis_ms = 3600000", "genesis_ms = 3600001"),
        ("consensus_step_ms = 1000", "consensus_step_ms = 1001"),
        ("min_survivors = 3", "min_survivors = 4"),
        ("members_max = 16", "members_max = 17"),
        ("corruption = \"0.2\"", "corruption = \"0.21\""),
        ("clip = \"", "clip = \"2"),
        ("weight_max = 16", "weight_max = 8"),
        ("weight_unit = 64", "weight_unit = 65"),
        ("aes256ctr", "chacha20"),
        ("inline_limit = 262144", "inline_limit = 262143"),
        ("replicas = 2", "replicas = 3"),
        ("absent_rounds = 3", "absent_rounds = 2"),
        ("\"closed\"", "\"invite\""),
        ("clinic-3", "clinic-6"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from} is in the text");
        let digest = Charter::parse(&changed)
            .unwrap_or_else(|e| panic!("{to}: {e}"))
            .digest();
        assert!(seen.insert(digest), "{from} -> {to} keeps the digest");
    }
    let same = text.replacen("corruption = \"0.2\"", "corruption = \"0.20\"", 1);
    assert_eq!(Charter::parse(&same).unwrap().digest(), charter.digest());
}

#[test]
fn every_method_is_written_read_and_seen_by_the_digest() {
    let bottleneck = |(_, non_linearity)| {
        Method::Bottleneck(Bottleneck {
            size: 24,
            non_linearity,
        })
    };
    let texts = [None, Some("Answer:\n\"yes\" or no"), Some("Answer:")];
    let prompt = |text: Option<&str>| {
        Method::Prompt(Prompt {
            virtual_tokens: 24,
            init_text: text.map(str::to_owned),
        })
    };
    let mut seen = std::collections::BTreeSet::from([sample().digest()]);
    let bottlenecks = NonLinearity::ALL.map(bottleneck).into_iter();
    let defaults = [
        Method::Bottleneck(Bottleneck::default()),
        Method::Prompt(Prompt::default()),
    ];
    for method in bottlenecks.chain(texts.map(prompt)).chain(defaults) {
        let mut charter = sample();
        charter.adapter.method = method;
        let charter = charter.checked().unwrap();
        let text = charter.to_toml();
        assert_eq!(Charter::parse(&text).unwrap(), charter, "{text}");
        assert!(seen.insert(charter.digest()), "{text}");
        let name = charter.adapter.method.name();
        for (from, to, said) in [
            (
                "seed =",
                "lora_r = 8\nseed =",
                "adapter.lora_r belongs to the method lora, and this is",
            ),
            ("= 24", "= 0", "it must be from 1"),
            ("= 24", "= 65537", "to 65536"),
            ("= \"relu\"", "= \"relo\"", "did you mean `relu`?"),
            (
                "init_text = \"Answer:\"",
                "init_text = \"\"",
                "from 1 to 4096",
            ),
        ] {
            if text.contains(from) {
                let changed = text.replacen(from, to, 1);
                let error = Charter::parse(&changed).expect_err(to).to_string();
                assert!(error.contains(said), "{name}, {to}: {error}");
            }
        }
    }
    let other = sample().to_toml().replacen("\"lora\"", "\"adapter\"", 1);
    let error = Charter::parse(&other).unwrap_err().to_string();
    assert!(error.contains("lora_r belongs to the method lora, and this is adapter"));
}

#[test]
fn what_the_file_leaves_out_has_defaults() {
    let full = sample();
    let keys: Vec<_> = full
        .members
        .iter()
        .map(|m| format!("[[members]]\nname = \"{}\"\nkey = \"{}\"\n", m.name, m.key))
        .collect();
    let keys = keys.concat();
    let text = format!(
        "[federation]\nname = 'north \"wards\"'\nprotocol = 1\nnonce = \"{}\"\n\
         [model]\ndigest = \"{}\"\narchitecture = \"llama\"\n[adapter]\nseed = 1\n{keys}",
        hex::encode([7; 32]),
        full.model.digest
    );
    assert_eq!(Charter::parse(&text).unwrap(), full);
}

#[test]
fn bad_terms_are_refused_with_the_way_out() {
    let text = sample().to_toml();
    for (from, to, said) in [
        ("lora_r = 8", "lora_rank = 8", "did you mean `lora_r`?"),
        ("[admission]", "[admision]", "did you mean `admission`?"),
        (
            "rounds = 6",
            "rounds = 6\nclip = \"1\"",
            "it belongs to [aggregation]",
        ),
        (
            "rounds = 6",
            "rounds = 0",
            "round.rounds = 0: it must be from 1",
        ),
        ("rounds = 6", "rounds = -1", "a whole number"),
        ("rounds = 6", "rounds = \"6\"", "a whole number"),
        ("local_steps = 20", "local_steps = 0", "local_steps"),
        ("min_survivors = 3", "min_survivors = 2", "from 3 to 5"),
        ("min_survivors = 3", "min_survivors = 6", "from 3 to 5"),
        ("members_max = 16", "members_max = 201", "from 5 to 200"),
        ("members_max = 16", "members_max = 4", "from 5 to 200"),
        (
            "corruption = \"0.2\"",
            "corruption = \"0.34\"",
            "less than one third",
        ),
        (
            "corruption = \"0.2\"",
            "corruption = \"1/3\"",
            "aggregation.corruption",
        ),
        (
            "corruption = \"0.2\"",
            "corruption = 0.2",
            "expected a string",
        ),
        ("weight_max = 16", "weight_max = 0", "weight_max"),
        ("ring_bits = 32", "ring_bits = 16", "it must be 32"),
        ("aes256ctr", "chacha21", "did you mean `chacha20`?"),
        ("\"closed\"", "\"open\"", "known are: closed, invite"),
        ("protocol = 1", "protocol = 2", "it must be 1"),
        ("clinic-2", "clinic-1", "the name `clinic-1` appears twice"),
        (
            "submit_min_ms = 120000",
            "submit_min_ms = 90000000",
            "submit_min_ms",
        ),
        ("[model]", "[model", "line "),
        ("nonce = \"07", "nonce = \"", "64 hexadecimal digits"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from} is in the text");
        let error = Charter::parse(&changed).expect_err(to).to_string();
        assert!(error.contains(said), "{to}: {error}");
        assert!(!error.contains('\n'), "{to}: one line, not {error:?}");
    }
}

#[test]
fn a_clip_without_room_is_refused() {
    let mut charter = sample();
    charter.aggregation.members_max = 200;
    charter.aggregation.weight_max = 65_536;
    charter.aggregation.clip = "1000000".parse().unwrap();
    assert!(matches!(
        charter.checked(),
        Err(CharterError::Infeasible(_))
    ));
}

#[test]
fn two_founders_are_too_few() {
    let mut charter = sample();
    charter.members.truncate(2);
    let error = charter.checked().unwrap_err().to_string();
    assert!(error.contains("[[members]]"), "{error}");
}

/// Of [`sample`]: changes only with the canonical encoding, and then the version in its domain changes too.
const DIGEST: &str = "896c55693d3ac64ec1c41efd3dd8e8c63882ba05de574dd6223f1cebe9dcf19a";
