//! The report on a terminal: aligned columns of plain text and the verdict.

use super::{MemberReport, RunReport, number};

/// What the columns are called. The first is set to the left, the others to the right.
const HEADS: [&str; 9] = [
    "member", "status", "rounds", "before", "after", "alone", "examples", "sent", "received",
];

/// How many columns stand to the left.
const LEFT: usize = 2;

/// How long a name may get before it is cut.
const NAME_MAX: usize = 32;

impl RunReport {
    /// The table of members and the verdict as plain text; losses are nats a token on everyone's held-out rows.
    pub fn table(&self) -> String {
        let mut rows = vec![HEADS.map(String::from)];
        rows.extend(self.members.iter().map(cells));
        if self.members.len() > 1 {
            rows.push(self.totals());
        }
        let widths: Vec<usize> = (0..HEADS.len())
            .map(|at| {
                rows.iter()
                    .map(|row| row[at].chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let rule = "─".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1));

        let mut out = String::new();
        for (at, row) in rows.iter().enumerate() {
            if at == 1 || (at > 1 && at == rows.len() - 1) {
                out += &rule;
                out.push('\n');
            }
            out += &line(row, &widths);
            out.push('\n');
        }
        let verdict = self.verdict();
        let lines = [
            self.subject(),
            verdict.rounds,
            verdict.learning,
            verdict.agreement,
        ];
        out + "\n" + &lines.join("\n") + "\n"
    }

    /// What was run, in one line.
    fn subject(&self) -> String {
        let model = format!(
            "{} ({} parameters)",
            printable(&self.model.name),
            number::grouped(self.model.parameters)
        );
        let scenario = self
            .scenario
            .as_deref()
            .map(|name| format!(", scenario {}", printable(name)));
        let label = self.provenance().map(|label| format!(", {label}"));
        let seconds = number::seconds(self.wall_seconds);
        format!(
            "{model}{}{} in {seconds}.",
            scenario.unwrap_or_default(),
            label.unwrap_or_default()
        )
    }

    /// The last row: means of the losses, sums of the rest.
    fn totals(&self) -> [String; 9] {
        let sum =
            |of: fn(&MemberReport) -> u64| self.members.iter().map(of).fold(0, u64::saturating_add);
        [
            "all".into(),
            String::new(),
            format!("{}/{}", self.rounds_opened, self.rounds),
            number::loss(self.eval_loss_before),
            number::loss(self.eval_loss_after),
            number::loss(self.eval_loss_local),
            sum(|member| member.examples).to_string(),
            number::bytes(sum(|member| member.bytes_sent)),
            number::bytes(sum(|member| member.bytes_received)),
        ]
    }
}

fn cells(member: &MemberReport) -> [String; 9] {
    [
        printable(&member.name),
        member.status.word().into(),
        member.rounds_contributed.to_string(),
        number::loss(member.eval_loss_before),
        number::loss(member.eval_loss_after),
        number::loss(member.eval_loss_local),
        member.examples.to_string(),
        number::bytes(member.bytes_sent),
        number::bytes(member.bytes_received),
    ]
}

fn line(row: &[String; 9], widths: &[usize]) -> String {
    let padded = row
        .iter()
        .zip(widths)
        .enumerate()
        .map(|(at, (cell, width))| {
            if at < LEFT {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
    padded.collect::<Vec<_>>().join("  ")
}

/// A name that cannot move the cursor: control characters are replaced, and what is too long is cut.
fn printable(name: &str) -> String {
    let clean: Vec<char> = name
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if clean.len() <= NAME_MAX {
        return clean.into_iter().collect();
    }
    clean[..NAME_MAX - 1].iter().chain(&['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn every_row_is_as_wide_as_the_rule() {
        let mut report = sample::clinic();
        report.members[1].name = "Ärztehaus Süd-Ost mit einem sehr langen Namen".into();
        let table = report.table();
        let lines: Vec<_> = table.lines().collect();
        let rule = lines[1].chars().count();
        assert!(lines[1].chars().all(|c| c == '─'));
        for row in &lines[..report.members.len() + 4] {
            assert_eq!(row.chars().count(), rule, "{table}");
        }
        assert!(
            lines[3].starts_with("Ärztehaus Süd-Ost mit einem seh…"),
            "{table}"
        );
        assert!(
            lines.iter().all(|line| line.chars().count() <= 120),
            "{table}"
        );
    }

    #[test]
    fn the_last_line_is_the_verdict() {
        let report = sample::clinic();
        assert_eq!(
            report.table().lines().last(),
            Some(report.verdict().agreement.as_str())
        );
    }

    #[test]
    fn an_unmeasured_loss_is_a_dash_and_a_name_stays_in_its_row() {
        let mut report = sample::clinic();
        report.members[0].eval_loss_after = None;
        report.members[0].name = "a\u{1b}[2J\nb".into();
        let table = report.table();
        assert!(table.contains("a\u{fffd}[2J\u{fffd}b"), "{table}");
        assert!(
            table.lines().nth(2).is_some_and(|row| row.contains(" – ")),
            "{table}"
        );
    }

    #[test]
    fn what_is_generated_is_said() {
        let mut report = sample::clinic();
        assert!(
            report
                .table()
                .contains("scenario clinic, generated data and base model in 2 min 08 s.")
        );
        report.model.generated = false;
        report.data_generated = false;
        assert!(!report.table().contains("generated"));
    }

    #[test]
    fn a_report_without_members_has_a_table_too() {
        assert!(RunReport::default().table().starts_with("member"));
    }
}
