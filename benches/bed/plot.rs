//! Decides how measurements are drawn: panels over one time axis, as SVG.
//!
//! Leaves to others: what is drawn. Invariant: every panel starts at zero, so that a line that
//! looks flat is flat.

use std::fmt::Write;

/// One panel: lines over the same time.
pub(crate) struct Panel<'a> {
    pub(crate) title: &'a str,
    pub(crate) lines: Vec<Line<'a>>,
}

/// One line of a panel.
pub(crate) struct Line<'a> {
    pub(crate) label: &'a str,
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 900.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 50.0;
const PANEL: f64 = 120.0;
const GAP: f64 = 45.0;
const COLORS: [&str; 4] = ["#0b6e99", "#c2410c", "#4d7c0f", "#6d28d9"];
/// More points than this are not told apart at this width.
const POINTS_MAX: usize = 700;

/// The whole picture.
pub(crate) fn svg(title: &str, time: &str, panels: &[Panel<'_>]) -> String {
    let height = TOP + (PANEL + GAP) * panels.len() as f64 + 20.0;
    let ends = panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
    let end = ends.map(|(x, _)| *x).fold(1.0, f64::max);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{title}</text>\n"
    );
    let mut top = TOP;
    for panel in panels {
        draw(&mut out, panel, top, end);
        top += PANEL + GAP;
    }
    let (middle, bottom) = (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, height - 8.0);
    let _ =
        writeln!(out, "<text x=\"{middle}\" y=\"{bottom}\" text-anchor=\"middle\">{time}</text>");
    out.push_str("</svg>\n");
    out
}

fn draw(out: &mut String, panel: &Panel<'_>, top: f64, end: f64) {
    let highest = panel.lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y);
    let ceiling = round_up(highest.fold(0.0, f64::max));
    let right = WIDTH - RIGHT;
    let x = |value: f64| LEFT + value / end * (right - LEFT);
    let y = |value: f64| top + PANEL - value / ceiling * PANEL;
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\">{}</text>", top - 6.0, panel.title);
    for step in 0..=4_u8 {
        let value = ceiling * f64::from(step) / 4.0;
        let (label_x, place) = (LEFT - 6.0, y(value));
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {place:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{label_x}\" \
             y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{value}</text>",
            place + 4.0
        );
    }
    for step in 0..=6_u8 {
        let value = end * f64::from(step) / 6.0;
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{value:.0}</text>",
            x(value),
            top + PANEL + 15.0
        );
    }
    for (place, (line, color)) in panel.lines.iter().zip(COLORS).enumerate() {
        let stride = line.points.len().div_ceil(POINTS_MAX).max(1);
        let points = line.points.iter().step_by(stride);
        let points: Vec<_> = points.map(|(at, v)| format!("{:.1},{:.1}", x(*at), y(*v))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>\
             <text x=\"{}\" y=\"{}\" fill=\"{color}\">{}</text>",
            points.join(" "),
            right + 8.0,
            top + 12.0 + 16.0 * place as f64,
            line.label
        );
    }
}

/// The next of 1, 2, 4, 8 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    let fits = [1.0, 2.0, 4.0, 8.0, 10.0].into_iter().map(|n| n * power).find(|n| *n >= value);
    fits.unwrap_or(value)
}
