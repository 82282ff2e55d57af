//! Draws measurements as SVG, in panels over one axis. Every panel starts at zero, so that a line that
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
/// More points cannot be distinguished at this width.
const POINTS_MAX: usize = 700;

/// The whole picture.
pub(crate) fn svg(title: &str, time: &str, panels: &[Panel<'_>]) -> String {
    let height = TOP + (PANEL + GAP) * panels.len() as f64 + 20.0;
    let ends = panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
    let end = ends.map(|(x, _)| *x).fold(1.0, f64::max);
    let mut out = opened(title, height);
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

fn opened(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{title}</text>\n"
    )
}

fn draw(out: &mut String, panel: &Panel<'_>, top: f64, end: f64) {
    let highest = panel.lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y);
    let ceiling = round_up(highest.fold(0.0, f64::max));
    draw_frame(out, panel.title, ceiling, top);
    let right = WIDTH - RIGHT;
    let x = |value: f64| LEFT + value / end * (right - LEFT);
    let y = |value: f64| top + PANEL - value / ceiling * PANEL;
    let step = round_up(end / 6.0);
    for value in (0..=6_u8).map(|nth| step * f64::from(nth)).filter(|value| *value <= end) {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{value:.0}</text>",
            x(value),
            top + PANEL + 15.0
        );
    }
    for (nth, (line, color)) in panel.lines.iter().zip(COLORS).enumerate() {
        let stride = line.points.len().div_ceil(POINTS_MAX).max(1);
        let points = line.points.iter().step_by(stride);
        let points: Vec<_> = points.map(|(at, value)| (x(*at), y(*value))).collect();
        draw_line(out, &points, color);
        draw_label(out, line.label, nth, color, top);
    }
}

/// The title and the grid lines of a panel.
fn draw_frame(out: &mut String, title: &str, ceiling: f64, top: f64) {
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\">{title}</text>", top - 6.0);
    for step in 0..=4_u8 {
        let value = ceiling * f64::from(step) / 4.0;
        let place = top + PANEL - PANEL * f64::from(step) / 4.0;
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {place:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\" fill=\"#555\">{value}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            place + 4.0
        );
    }
}

fn draw_line(out: &mut String, points: &[(f64, f64)], color: &str) {
    let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let points = points.join(" ");
    let _ = writeln!(
        out,
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>"
    );
}

/// The label of the nth line, next to the panel.
fn draw_label(out: &mut String, label: &str, nth: usize, color: &str, top: f64) {
    let (x, y) = (WIDTH - RIGHT + 8.0, top + 12.0 + 16.0 * nth as f64);
    let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" fill=\"{color}\">{label}</text>");
}

/// The next of 1, 2, 4, 8 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    let fits = [1.0, 2.0, 4.0, 8.0, 10.0].into_iter().map(|n| n * power).find(|n| *n >= value);
    fits.unwrap_or(value)
}

/// A panel with named positions at equal distances.
pub(crate) struct Marked<'a> {
    pub(crate) title: &'a str,
    /// The label of each line, and its values by position.
    pub(crate) lines: Vec<(&'a str, Vec<(String, f64)>)>,
}

/// The whole picture of panels with named positions.
pub(crate) fn marked(title: &str, panels: &[Marked<'_>]) -> String {
    let height = TOP + (PANEL + GAP) * panels.len() as f64;
    let mut out = opened(title, height);
    let mut top = TOP;
    for panel in panels {
        draw_marked(&mut out, panel, top);
        top += PANEL + GAP;
    }
    out.push_str("</svg>\n");
    out
}

fn draw_marked(out: &mut String, panel: &Marked<'_>, top: f64) {
    let highest = panel.lines.iter().flat_map(|(_, values)| values).map(|(_, value)| *value);
    let ceiling = round_up(highest.fold(0.0, f64::max));
    draw_frame(out, panel.title, ceiling, top);
    let places = panel.lines.iter().map(|(_, values)| values.len()).max().unwrap_or(1);
    let step = (WIDTH - RIGHT - LEFT) / places as f64;
    let x = |place: usize| LEFT + step * (place as f64 + 0.5);
    let y = |value: f64| top + PANEL - value / ceiling * PANEL;
    let named = panel.lines.first().map(|(_, values)| values.as_slice()).unwrap_or_default();
    for (place, (name, _)) in named.iter().enumerate() {
        let (x, y) = (x(place), top + PANEL + 15.0);
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" fill=\"#555\">{name}</text>"
        );
    }
    for (nth, ((label, values), color)) in panel.lines.iter().zip(COLORS).enumerate() {
        let points: Vec<_> =
            values.iter().enumerate().map(|(place, (_, value))| (x(place), y(*value))).collect();
        draw_line(out, &points, color);
        for (x, y) in &points {
            let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>");
        }
        draw_label(out, label, nth, color, top);
    }
}
