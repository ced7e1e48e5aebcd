//! The picture: one panel a row, a bar for each contender, the goal as a line. One file, readable on light and on dark.

#![forbid(unsafe_code)]

use crate::report::{Better, Row, short};
use std::fmt::Write;

const WIDTH: f64 = 860.0;
const LABELS: f64 = 250.0;
const BARS: f64 = 480.0;
const BAR: f64 = 16.0;
const STEP: f64 = 22.0;
const HEAD: f64 = 34.0;
const MARGIN: f64 = 20.0;

const STYLE: &str = "
  .page { fill: #ffffff } .title { fill: #1b1f24; font-weight: 600 } .text { fill: #3d444d } .quiet { fill: #6a737d }
  .podrun { fill: #0b7285 } .floor { fill: #8d99a6 } .other { fill: #c9873a } .met { fill: #2b8a3e } .missed { fill: #c92a2a }
  .spread { stroke: #1b1f24; stroke-width: 1.2; opacity: 0.55 }
  text { font: 13px system-ui, 'DejaVu Sans', sans-serif }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .title { fill: #f0f3f6 } .text { fill: #c9d1d9 } .quiet { fill: #8b949e }
    .podrun { fill: #3bc9db } .floor { fill: #6e7a87 } .other { fill: #e0a458 } .met { fill: #69db7c } .missed { fill: #ff8787 }
    .spread { stroke: #f0f3f6 }
  }";

/// All rows, one below the other.
pub(crate) fn svg(rows: &[Row], caption: &str) -> String {
    let mut body = String::new();
    let mut y = MARGIN + 44.0;
    for row in rows {
        panel(&mut body, row, y);
        y += height(row);
    }
    let height = y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">\n<title>podrun, measured</title>\n\
         <style>{STYLE}\n</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height:.0}\"/>\n\
         <text class=\"title\" x=\"{MARGIN}\" y=\"32\" style=\"font-size:17px\">podrun, measured</text>\n\
         <text class=\"quiet\" x=\"{MARGIN}\" y=\"50\">{}</text>\n{body}</svg>\n",
        escape(caption)
    )
}

fn height(row: &Row) -> f64 {
    HEAD + STEP * (crate::measure::float(row.series.len()) + crate::measure::float(row.goals.len())) + 12.0
}

fn panel(body: &mut String, row: &Row, top: f64) {
    let arrow = if row.better == Better::Less { "less is better" } else { "more is better" };
    text(body, "title", MARGIN, top + 18.0, &row.title);
    let _ = writeln!(
        body,
        "<text class=\"quiet\" x=\"{}\" y=\"{:.0}\" text-anchor=\"end\">{}, {arrow}</text>",
        WIDTH - MARGIN,
        top + 18.0,
        escape(row.unit)
    );
    let most = row.series.iter().map(|series| series.median()).filter(|value| value.is_finite()).fold(0.0, f64::max);
    let scale = if most > 0.0 { BARS / most } else { 0.0 };
    let mut y = top + HEAD;
    for series in &row.series {
        let long = (series.median() * scale).max(1.0);
        let (left, middle) = (MARGIN + LABELS, y + BAR / 2.0);
        text(body, "text", MARGIN, y + 13.0, &series.name);
        let _ = writeln!(
            body,
            "<rect class=\"{}\" x=\"{left}\" y=\"{y:.0}\" width=\"{long:.1}\" height=\"{BAR}\" rx=\"2\"/>",
            kind(&series.name)
        );
        if series.values.len() > 1 {
            let (from, to) = (series.quantile(0.1) * scale, (series.quantile(0.9) * scale).min(BARS));
            let _ = writeln!(
                body,
                "<line class=\"spread\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>",
                left + from.min(BARS),
                left + to
            );
        }
        let end = long.max(if series.values.len() > 1 { (series.quantile(0.9) * scale).min(BARS) } else { 0.0 });
        text(body, "text", left + end + 8.0, y + 13.0, &short(series.median()));
        y += STEP;
    }
    for goal in &row.goals {
        let (class, sign) = if goal.met() { ("met", "✓") } else { ("missed", "✗") };
        text(body, class, MARGIN + LABELS, y + 13.0, &format!("{sign} {}", goal.sentence()));
        y += STEP;
    }
}

/// Whose bar it is.
fn kind(name: &str) -> &'static str {
    let theirs = ["crun", "runc", "podman", "conmon"];
    let bare = ["floor", "bare pump", "an empty program"];
    match name {
        name if theirs.iter().any(|other| name.starts_with(other)) => "other",
        name if bare.iter().any(|other| name.starts_with(other)) => "floor",
        _ => "podrun",
    }
}

fn text(body: &mut String, class: &str, x: f64, y: f64, words: &str) {
    let _ = writeln!(body, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(words));
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Series;

    #[test]
    fn a_picture_holds_every_row_and_no_loose_sign() {
        let row = Row::times("a < b & c", vec![Series::of("podrun", vec![1.0, 2.0]), Series::of("crun", vec![4.0])]);
        let picture = svg(&[row.clone(), row], "two rows");
        assert_eq!(picture.matches("class=\"other\"").count(), 2);
        assert_eq!(picture.matches("a &lt; b &amp; c").count(), 2);
        assert!(!picture.contains("NaN"));
    }
}
