//! The report as one HTML file: no scripts, nothing loaded, light and dark as the reader's system has it.

use super::curves::{self, Axes};
use super::timeline::{self, Presence, Room};
use super::{CurveRows, MemberReport, MemberStatus, Ranking, RunReport, number};

/// How many members get a panel of their own; the others are in the overview and in `report.json`.
const PANELS_MAX: usize = 24;

impl RunReport {
    /// The page `report.html`.
    pub fn html(&self) -> String {
        let body = [
            self.opening(),
            self.curves(),
            self.timeline(),
            self.members_table(),
            self.verification(),
            self.repetition(),
        ];
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
            escape(&format!("conclave testnet: {}", self.headline())),
            include_str!("page.css"),
            body.concat()
        )
    }

    /// The outcome in one line.
    fn headline(&self) -> &'static str {
        if !self.agreed {
            return if self.states() > 1 {
                "The nodes do not agree"
            } else {
                "The run did not reach its end"
            };
        }
        match self.verdict().ranking {
            Ranking::Best => "The nodes agree, and training together beat training alone",
            Ranking::BelowBefore => {
                "The nodes agree; training together did not beat training alone"
            }
            Ranking::Uncompared => "The nodes agree, and the loss fell",
            Ranking::NotBelow => "The nodes agree, but the loss did not fall",
            Ranking::Unknown => "The nodes agree; the loss was not measured",
        }
    }

    fn opening(&self) -> String {
        let scenario = self
            .scenario
            .as_deref()
            .map(|name| chip(&format!("scenario {name}")))
            .unwrap_or_default();
        let label = self.provenance().map(chip).unwrap_or_default();
        let verdict = self.verdict();
        let learning = match verdict.ranking {
            Ranking::Best | Ranking::Uncompared => "yes",
            Ranking::BelowBefore | Ranking::Unknown => "open",
            Ranking::NotBelow => "no",
        };
        let rounds = if self.rounds_opened >= self.rounds {
            "yes"
        } else {
            "open"
        };
        let findings = [
            (learning, verdict.learning),
            (if self.agreed { "yes" } else { "no" }, verdict.agreement),
            (rounds, verdict.rounds),
        ];
        let findings =
            findings.map(|(class, text)| format!("<li class=\"{class}\">{}</li>\n", escape(&text)));
        format!(
            "<p class=\"eyebrow\">conclave testnet {label}{scenario}</p>\n<h1>{}</h1>\n<p class=\"lede\">{}</p>\n\
             {}<ul class=\"findings\">\n{}</ul>\n",
            escape(self.headline()),
            escape(&self.about),
            self.tiles(),
            findings.concat()
        )
    }

    fn tiles(&self) -> String {
        let losses = [
            ("", "Before", self.eval_loss_before, "base model"),
            (
                "alone",
                "Alone",
                self.eval_loss_local,
                "mean of solo trainings",
            ),
            (
                "together",
                "Together",
                self.eval_loss_after,
                "after the last round",
            ),
        ];
        let mut tiles: Vec<String> = losses
            .iter()
            .map(|(class, name, loss, about)| tile(class, name, &number::loss(*loss), about))
            .collect();
        let opened = format!("{}/{}", self.rounds_opened, self.rounds);
        tiles.push(tile("", "Rounds", &opened, "opened"));
        tiles.push(tile(
            "",
            "Took",
            &number::seconds(self.wall_seconds),
            &number::count(self.members.len(), "node"),
        ));
        format!("<dl class=\"tiles\">\n{}</dl>\n", tiles.concat())
    }

    fn curves(&self) -> String {
        let rows = match self.curve_rows {
            CurveRows::Own => {
                "Each node is measured on the rows that it set aside itself; the figures above are over \
                 everyone's rows."
            }
            CurveRows::All => "Every node is measured on the rows that all nodes set aside.",
        };
        let intro = format!(
            "<section>\n<h2>Held-out loss by round</h2>\n<p class=\"note\">Nats a token, lower is better. {rows} \
             Round 0 is the base model.</p>\n"
        );
        if !curves::any(self) {
            return intro + "<p>No loss was measured by round.</p>\n</section>\n";
        }
        let axes = Axes::of(self);
        let panels: String = self
            .members
            .iter()
            .take(PANELS_MAX)
            .map(|member| self.panel(&axes, member))
            .collect();
        let left_out = self.members.len().saturating_sub(PANELS_MAX);
        let rest = if left_out == 0 {
            String::new()
        } else {
            format!(
                "<p class=\"note\">{} more in report.json.</p>\n",
                number::count(left_out, "node")
            )
        };
        format!(
            "{intro}<div class=\"card\">\n{}\n{}\n{KEY}</div>\n\
             <div class=\"panels\">\n{panels}</div>\n{rest}</section>\n",
            curves::overview(self, &axes, 880.0, 320.0, "wide"),
            curves::overview(self, &axes, 360.0, 260.0, "narrow"),
        )
    }

    fn panel(&self, axes: &Axes, member: &MemberReport) -> String {
        let last = member
            .evals
            .iter()
            .rev()
            .find(|point| point.loss.is_finite());
        let end = match (last, member.status) {
            (None, _) => "not measured".into(),
            (Some(point), MemberStatus::Killed) => {
                format!(
                    "<b class=\"together\">{}</b> when killed",
                    number::loss(Some(point.loss))
                )
            }
            (Some(point), MemberStatus::Late) => format!(
                "<b class=\"together\">{}</b>, too late to enter",
                number::loss(Some(point.loss))
            ),
            (Some(point), _) => format!(
                "<b class=\"together\">{}</b> together",
                number::loss(Some(point.loss))
            ),
        };
        let alone = member.solo_final(self.curve_rows);
        let alone = alone
            .map(|loss| {
                format!(
                    " · <b class=\"alone\">{}</b> alone",
                    number::loss(Some(loss))
                )
            })
            .unwrap_or_default();
        format!(
            "<figure class=\"card\"><h3>{}</h3><p>{end}{alone}</p>{}</figure>\n",
            escape(&member.name),
            curves::panel(self, axes, member)
        )
    }

    fn timeline(&self) -> String {
        let key = Presence::LEGEND.map(|(presence, text)| {
            let mark = presence.mark(10.0, 10.0);
            format!(
                "<li><svg width=\"20\" height=\"20\" aria-hidden=\"true\">{mark}</svg>{text}</li>"
            )
        });
        format!(
            "<section>\n<h2>Who was in which round</h2>\n<p class=\"note\">A round opens only the sum of its \
             survivors. Where a node drops out after dealing shares, the others rebuild its pair keys, so that its \
             masks cancel; its own delta stays hidden.</p>\n<div class=\"card\"><div class=\"scroll\">{}</div>\n\
             <ul class=\"key\">{}</ul></div>\n</section>\n",
            timeline::svg(self, Room::WIDE) + &timeline::svg(self, Room::NARROW),
            key.concat()
        )
    }

    fn members_table(&self) -> String {
        let rows: String = self.members.iter().map(table_row).collect();
        let sum =
            |of: fn(&MemberReport) -> u64| self.members.iter().map(of).fold(0, u64::saturating_add);
        let all = cells(&[
            "all".into(),
            String::new(),
            format!("{}/{}", self.rounds_opened, self.rounds),
            number::loss(self.eval_loss_before),
            number::loss(self.eval_loss_local),
            number::loss(self.eval_loss_after),
            number::grouped(sum(|member| member.examples)),
            number::bytes(sum(|member| member.bytes_sent)),
            number::bytes(sum(|member| member.bytes_received)),
        ]);
        format!(
            "<section>\n<h2>Members</h2>\n<p class=\"note\">Losses in nats a token on everyone's held-out rows; \
             a dash was not measured.</p>\n<div class=\"card scroll\"><table>\n<thead><tr><th>member</th>\
             <th>status</th><th>rounds</th><th>before</th><th>alone</th><th>together</th><th>examples</th><th>sent</th>\
             <th>received</th></tr></thead>\n<tbody>\n{rows}<tr class=\"all\">{all}</tr>\n</tbody></table></div>\n\
             </section>\n"
        )
    }

    fn verification(&self) -> String {
        let none = match (self.agreed, self.states()) {
            (true, _) => "none",
            (false, 0 | 1) => "not settled: the run did not reach its end",
            (false, _) => "differs between nodes: see report.json",
        };
        let digest = |digest: &Option<String>| match digest {
            Some(hex) => format!("<code>{}</code>", escape(hex)),
            None => none.to_owned(),
        };
        let model = format!(
            "{} ({} parameters{})<br><code>{}</code>",
            escape(&self.model.name),
            number::grouped(self.model.parameters),
            if self.model.generated {
                ", trained from generated text"
            } else {
                ""
            },
            escape(&self.model.digest)
        );
        format!(
            "<section>\n<h2>Check it yourself</h2>\n<p class=\"note\">Every node's folder holds the whole ledger: each \
             record is signed by a quorum and certifies the adapter that the round before it opened. Offline, from \
             any one folder DIR:</p>\n<pre>conclave ledger verify DIR</pre>\n<dl class=\"facts\">\n\
             <dt>Adapter</dt><dd>{}</dd>\n<dt>Ledger head</dt><dd>{}</dd>\n\
             <dt>Base model</dt><dd>{model}</dd>\n</dl>\n</section>\n",
            digest(&self.adapter_digest),
            digest(&self.ledger_head)
        )
    }

    fn repetition(&self) -> String {
        let notes: Vec<String> = self
            .notes
            .iter()
            .map(|note| format!("<li>{}</li>\n", escape(note)))
            .collect();
        let notes = if notes.is_empty() {
            String::new()
        } else {
            format!(
                "<p class=\"note\">What else happened:</p>\n<ul class=\"note\">\n{}</ul>\n",
                notes.concat()
            )
        };
        format!(
            "<section>\n<h2>Run it again</h2>\n<pre>{}</pre>\n<p class=\"note\">Seed {} fixes data, split, \
             initialisation, batches and faults; keys and masks are new in every run.</p>\n{notes}</section>\n",
            escape(&self.command),
            self.seed
        )
    }
}

/// What the three kinds of line mean.
const KEY: &str = "<ul class=\"key\">\
    <li><svg width=\"26\" height=\"10\" aria-hidden=\"true\"><path class=\"line together\" d=\"M1 5H25\"/></svg>\
    trained together (mean of the nodes that saw every round)</li>\
    <li><svg width=\"26\" height=\"10\" aria-hidden=\"true\"><path class=\"line alone\" d=\"M1 5H25\"/></svg>\
    trained alone for as many steps (level: where it ended)</li>\
    <li><svg width=\"26\" height=\"10\" aria-hidden=\"true\"><path class=\"line other\" d=\"M1 5H25\"/></svg>\
    each node</li></ul>\n";

fn chip(text: &str) -> String {
    format!("<span class=\"chip\">{}</span>", escape(text))
}

fn tile(class: &str, name: &str, value: &str, about: &str) -> String {
    format!(
        "<div class=\"tile {class}\"><dt>{name}</dt><dd>{}<small>{}</small></dd></div>\n",
        escape(value),
        escape(about)
    )
}

fn table_row(member: &MemberReport) -> String {
    let row = cells(&[
        member.name.clone(),
        member.status.word().into(),
        member.rounds_contributed.to_string(),
        number::loss(member.eval_loss_before),
        number::loss(member.eval_loss_local),
        number::loss(member.eval_loss_after),
        number::grouped(member.examples),
        number::bytes(member.bytes_sent),
        number::bytes(member.bytes_received),
    ]);
    format!("<tr title=\"{}\">{row}</tr>\n", escape(&member.member))
}

fn cells(row: &[String; 9]) -> String {
    row.iter()
        .map(|cell| format!("<td>{}</td>", escape(cell)))
        .collect::<Vec<_>>()
        .concat()
}

/// Text for HTML: what could end it is escaped, and control characters are replaced.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn names_are_text_and_never_markup() {
        let mut report = sample::clinic();
        report.members[0].name = "<b>\"Ahrenfeld\" & 'sons'".into();
        report.about = "</style><script>alert(1)</script>".into();
        report.command = "conclave testnet --dir '<x>'".into();
        report.notes.push("<i>note</i>".into());
        report.scenario = Some("<u>".into());
        report.model.name = "<s>".into();
        let page = report.html();
        for wrong in ["<b>\"", "<script", "<x>", "<i>", "<u>", "<s>"] {
            assert!(!page.contains(wrong), "{wrong}");
        }
        assert!(page.contains("&lt;b&gt;&quot;Ahrenfeld&quot; &amp; &#39;sons&#39;"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = sample::clinic().html();
        for outside in [
            "http:", "https:", "//", "src=", "href=", "url(", "@import", "<script", "<link",
        ] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn tags_are_closed_in_order() {
        for report in [sample::clinic(), sample::diverged(), RunReport::default()] {
            let page = report.html();
            let mut open = Vec::new();
            for tag in page
                .split('<')
                .skip(2)
                .filter_map(|part| part.split('>').next())
            {
                let name = tag
                    .trim_start_matches('/')
                    .split([' ', '/', '\n'])
                    .next()
                    .unwrap_or_default();
                if tag.starts_with('/') {
                    assert_eq!(open.pop(), Some(name), "{tag}");
                } else if !tag.ends_with('/') && !matches!(name, "meta" | "br") {
                    open.push(name);
                }
            }
            assert!(open.is_empty(), "{open:?}");
        }
    }

    #[test]
    fn what_is_generated_is_labelled() {
        let mut report = sample::clinic();
        assert!(report.html().contains("generated data and base model"));
        report.data_generated = false;
        report.model.generated = false;
        assert!(!report.html().contains("generated"));
    }

    #[test]
    fn a_bad_run_is_not_dressed_up() {
        let page = sample::diverged().html();
        assert!(page.contains("<h1>The nodes do not agree</h1>"));
        assert!(page.contains("did NOT fall") && page.contains("differs between nodes"));
        let mut equal = sample::clinic();
        equal.eval_loss_local = Some(1.0);
        assert!(equal.html().contains("did not beat training alone"));
    }

    #[test]
    fn an_empty_report_is_a_page() {
        assert!(
            RunReport::default()
                .html()
                .contains("No loss was measured by round.")
        );
    }

    /// `CONCLAVE_REPORT_DIR=DIR cargo test --lib report` leaves the pages there to look at.
    #[test]
    fn the_sample_pages_can_be_written() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let folder = std::env::var_os("CONCLAVE_REPORT_DIR")
            .map_or_else(|| folder.path().into(), std::path::PathBuf::from);
        let mut large = sample::clinic();
        large.members.extend(
            sample::clinic()
                .members
                .into_iter()
                .map(|member| MemberReport {
                    name: format!("{} University Hospital, second site", member.name),
                    ..member
                }),
        );
        large.scenario = None;
        let mut union = sample::clinic();
        let evals = union.members[0].evals.clone();
        for member in &mut union.members {
            member.evals = evals[..member.evals.len()].to_vec();
            member.solo.drain(1..6);
        }
        union.curve_rows = CurveRows::All;
        for (name, report) in [
            ("good", sample::clinic()),
            ("bad", sample::diverged()),
            ("large", large),
            ("union", union),
        ] {
            std::fs::write(folder.join(format!("{name}.html")), report.html())?;
        }
        Ok(())
    }
}
