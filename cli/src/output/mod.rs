//! How values are shown: tables for people, JSON and YAML for programs.
//!
//! Owns the choice of format and the words for ages and counts. Never fetches anything. Used by `commands`.

mod page;
mod rows;
mod table;

use std::time::Duration;

use serde::Serialize;

pub(crate) use page::status_page;
pub(crate) use rows::{exports, federations, gateways, imports, invites, rotation, tunnels};
pub(crate) use table::Table;

use crate::{args::OutputFormat, exit::CliError};

/// The text of `value` in `format`; `people` makes it for table and wide (its argument).
///
/// # Errors
/// [`CliError`] if the value cannot be written in the format: a bug, since every view can.
pub(crate) fn show<T: Serialize>(
    value: &T,
    format: OutputFormat,
    people: impl FnOnce(&T, bool) -> String,
) -> Result<String, CliError> {
    let bug = |e: String| CliError::failed(format!("cannot print the answer: {e}"));
    match format {
        OutputFormat::Table => Ok(people(value, false)),
        OutputFormat::Wide => Ok(people(value, true)),
        OutputFormat::Json => serde_json::to_string_pretty(value)
            .map(|text| text + "\n")
            .map_err(|e| bug(e.to_string())),
        OutputFormat::Yaml => serde_saphyr::to_string(value).map_err(|e| bug(e.to_string())),
    }
}

/// An age or time left in the largest unit that keeps two figures: `43s`, `12m`, `5h`, `3d`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A round trip: `0.21ms`, `14ms`.
pub(crate) fn round_trip(rtt: Duration) -> String {
    let ms = rtt.as_secs_f64() * 1_000.0;
    if ms < 10.0 {
        format!("{ms:.2}ms")
    } else {
        format!("{ms:.0}ms")
    }
}

/// A number with thousands separated: `4,120`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Removes what could move a terminal's cursor: names and messages may come from a peer.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_spans_read_well() {
        assert_eq!(
            [0, 999, 1_000, 4_120, 1_234_567].map(count),
            ["0", "999", "1,000", "4,120", "1,234,567"]
        );
        assert_eq!(
            [0, 119, 120, 7_200, 200_000].map(|s| span(Duration::from_secs(s))),
            ["0s", "119s", "2m", "2h", "2d"]
        );
        assert_eq!(
            [210, 14_200].map(|us| round_trip(Duration::from_micros(us))),
            ["0.21ms", "14ms"]
        );
    }

    #[test]
    fn a_peers_words_cannot_drive_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\r\nc"), "a [2Jb  c");
    }

    #[test]
    fn one_value_four_formats() {
        let value = vec![("a", 1)];
        let text = |format| show(&value, format, |_, wide| format!("wide={wide}")).unwrap();
        assert_eq!(text(OutputFormat::Table), "wide=false");
        assert_eq!(text(OutputFormat::Wide), "wide=true");
        let json: Vec<(String, u32)> = serde_json::from_str(&text(OutputFormat::Json)).unwrap();
        let yaml: Vec<(String, u32)> = serde_saphyr::from_str(&text(OutputFormat::Yaml)).unwrap();
        assert_eq!((json.len(), yaml.len()), (1, 1));
    }
}
