//! Pictures of a run: learning curves and confusion matrices, as PNG.

use std::io::Write;
use std::path::Path;
use std::sync::Once;

use fornax_tensor::io::write_atomic;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, register_font};

use crate::error::{Error, Result, io};

/// The face of all text; carried in the binary, so that a machine without fonts draws too.
const FONT: &str = "fornax";
const INK: RGBColor = RGBColor(40, 44, 52);
const PALE: RGBColor = RGBColor(225, 228, 232);
const LINES: [RGBColor; 4] = [
    RGBColor(31, 119, 180),
    RGBColor(230, 97, 1),
    RGBColor(44, 140, 60),
    RGBColor(140, 86, 175),
];

/// One line of a [`Panel`].
#[derive(Debug, Clone)]
pub struct Line {
    /// Its name in the legend.
    pub name: String,
    /// Points `(x, y)`; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// One pair of axes with its lines.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What the vertical axis is.
    pub title: String,
    /// Whether values are fractions, to be written as per cent.
    pub percent: bool,
    /// What is drawn.
    pub lines: Vec<Line>,
}

/// Draws panels beside each other over the axis "epoch" and writes the PNG to `path`.
pub fn curves(path: &Path, title: &str, panels: &[Panel]) -> Result<()> {
    let size = (640 * panels.len().max(1) as u32, 480);
    picture(path, size, |root| {
        let root = root.titled(title, (FONT, 24).into_font().color(&INK))?;
        for (area, panel) in root
            .split_evenly((1, panels.len().max(1)))
            .iter()
            .zip(panels)
        {
            draw_panel(area, panel)?;
        }
        Ok(())
    })
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, plotters::coord::Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw_panel(area: &Area<'_>, panel: &Panel) -> Drawn {
    let finite = |line: &Line| -> Vec<(f64, f64)> {
        let points = line.points.iter().copied();
        points
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .collect()
    };
    let all: Vec<(f64, f64)> = panel.lines.iter().flat_map(finite).collect();
    let (x_low, x_high) = range(all.iter().map(|point| point.0), 0.0);
    let (y_low, y_high) = range(all.iter().map(|point| point.1), 0.05);
    let (y_low, y_high) = if panel.percent {
        (y_low.max(0.0), y_high.min(1.0))
    } else {
        (y_low.max(0.0), y_high)
    };
    let percent = panel.percent;
    let digits = decimals((y_high - y_low) * if percent { 100.0 } else { 1.0 });
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .margin_right(24)
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d(x_low..x_high, y_low..y_high)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(PALE)
        .axis_style(INK)
        .x_labels(8)
        .y_labels(8)
        .x_label_formatter(&|x| {
            if x.fract() == 0.0 {
                format!("{x}")
            } else {
                String::new()
            }
        })
        .y_label_formatter(&|y| {
            if percent {
                format!("{:.digits$}%", 100.0 * y)
            } else {
                format!("{y:.digits$}")
            }
        })
        .x_desc("epoch")
        .y_desc(&panel.title)
        .label_style((FONT, 16).into_font().color(&INK))
        .draw()?;
    for (line, color) in panel.lines.iter().zip(LINES.iter().cycle()) {
        let points = finite(line);
        if points.is_empty() {
            continue;
        }
        let dots = points.len() <= 60;
        chart
            .draw_series(LineSeries::new(
                points.iter().copied(),
                color.stroke_width(2),
            ))?
            .label(line.name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], color.stroke_width(3)));
        if dots {
            chart.draw_series(points.iter().map(|at| Circle::new(*at, 3, color.filled())))?;
        }
    }
    if !all.is_empty() {
        let place = if percent {
            SeriesLabelPosition::LowerRight
        } else {
            SeriesLabelPosition::UpperRight
        };
        chart
            .configure_series_labels()
            .position(place)
            .margin(12)
            .legend_area_size(28)
            .background_style(WHITE.mix(0.85))
            .border_style(PALE)
            .label_font((FONT, 16).into_font().color(&INK))
            .draw()?;
    }
    Ok(())
}

/// The range of values, widened by `margin` of itself; a single value gets room on both sides.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low > high {
        return (0.0, 1.0);
    }
    // Values so close that adding the margin would not move them cannot be told apart in a plot.
    if high - low <= 1e-9 * high.abs().max(1e-9) {
        let room = if low == 0.0 { 1.0 } else { 0.5 * low.abs() };
        return (low - room, high + room);
    }
    let room = margin * (high - low);
    (low - room, high + room)
}

/// Decimals with which eight labels over `span` differ.
fn decimals(span: f64) -> usize {
    (1.0 - (span / 8.0).log10()).clamp(0.0, 6.0) as usize
}

/// Draws a confusion matrix (`counts[truth][prediction]`) as a heat map with numbers and class
/// names and writes the PNG to `path`. Colours are by share of the row.
///
/// # Panics
/// If `counts` is not square or `names` has another length.
pub fn confusion_matrix(
    path: &Path,
    title: &str,
    names: &[String],
    counts: &[Vec<u64>],
) -> Result<()> {
    let classes = names.len();
    assert_eq!(counts.len(), classes, "one row per class");
    assert!(
        counts.iter().all(|row| row.len() == classes),
        "one column per class"
    );
    let cell = (600 / classes.max(1)).clamp(8, 96) as i32;
    let font = (cell / 3).clamp(9, 22);
    let label_font = cell.clamp(9, 18);
    let longest = names.iter().map(|name| name.chars().count()).max();
    let longest = longest.unwrap_or(0).min(16) as i32;
    let labels = 50 + longest * label_font * 6 / 10;
    // Names under the columns are turned where they would not fit side by side.
    let turned = longest * label_font * 6 / 10 > cell;
    let below = if turned { labels } else { 70 };
    let (left, top) = (labels, 60);
    let side = cell * classes as i32;
    let size = (left + side + 40, top + side + below);
    picture(path, (size.0.max(420) as u32, size.1 as u32), |root| {
        let text = |size: i32, color: &RGBColor, h, v| {
            (FONT, size).into_font().color(color).pos(Pos::new(h, v))
        };
        root.draw_text(
            title,
            &text(22, &INK, HPos::Left, VPos::Center),
            (16, top / 2),
        )?;
        for (row, line) in counts.iter().enumerate() {
            let total: u64 = line.iter().sum();
            for (column, &count) in line.iter().enumerate() {
                let share = if total == 0 {
                    0.0
                } else {
                    count as f64 / total as f64
                };
                let x = left + column as i32 * cell;
                let y = top + row as i32 * cell;
                root.draw(&Rectangle::new(
                    [(x, y), (x + cell, y + cell)],
                    heat(share, row == column).filled(),
                ))?;
                root.draw(&Rectangle::new([(x, y), (x + cell, y + cell)], PALE))?;
                if count > 0 && cell >= 18 {
                    let color = if share > 0.5 { WHITE } else { INK };
                    let digits = count.to_string();
                    let fits = (cell * 5 / 3 / digits.len() as i32).clamp(8, font);
                    root.draw_text(
                        &digits,
                        &text(fits, &color, HPos::Center, VPos::Center),
                        (x + cell / 2, y + cell / 2),
                    )?;
                }
            }
        }
        // With more classes than there is room for, every n-th name is written.
        let every = (label_font / cell.max(1) + 1) as usize;
        for (index, name) in names.iter().enumerate().step_by(every) {
            let name: String = name.chars().take(16).collect();
            let middle = index as i32 * cell + cell / 2;
            root.draw_text(
                &name,
                &text(label_font, &INK, HPos::Right, VPos::Center),
                (left - 8, top + middle),
            )?;
            let under = (left + middle, top + side + 8);
            if turned {
                let style = (FONT, label_font)
                    .into_font()
                    .transform(FontTransform::Rotate270)
                    .color(&INK)
                    .pos(Pos::new(HPos::Right, VPos::Center));
                root.draw_text(&name, &style, under)?;
            } else {
                root.draw_text(
                    &name,
                    &text(label_font, &INK, HPos::Center, VPos::Top),
                    under,
                )?;
            }
        }
        root.draw_text(
            "predicted",
            &text(16, &INK, HPos::Center, VPos::Bottom),
            (left + side / 2, top + side + below - 10),
        )?;
        let upright = (FONT, 16)
            .into_font()
            .transform(FontTransform::Rotate270)
            .color(&INK)
            .pos(Pos::new(HPos::Center, VPos::Top));
        root.draw_text("true", &upright, (10, top + side / 2))?;
        Ok(())
    })
}

/// White to blue on the diagonal, white to red beside it.
fn heat(share: f64, right: bool) -> RGBColor {
    let full = if right {
        [8.0, 81.0, 156.0]
    } else {
        [165.0, 15.0, 21.0]
    };
    // The square root makes the few mistakes visible.
    let strength = share.clamp(0.0, 1.0).sqrt();
    let [red, green, blue] = full.map(|channel| (255.0 + strength * (channel - 255.0)) as u8);
    RGBColor(red, green, blue)
}

/// Draws into memory and writes the PNG atomically.
fn picture(path: &Path, size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Drawn) -> Result<()> {
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        let bytes = include_bytes!("../assets/DejaVuSans-subset.ttf");
        // A face that cannot be read shows as an error of the first text drawn.
        let _ = register_font(FONT, FontStyle::Normal, bytes);
    });
    let mut pixels = vec![255; size.0 as usize * size.1 as usize * 3];
    let failed = |reason: String| Error::Plot {
        path: path.to_owned(),
        reason,
    };
    {
        let root = BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area();
        root.fill(&WHITE)
            .map_err(|error| failed(error.to_string()))?;
        draw(&root).map_err(|error| failed(error.to_string()))?;
        root.present().map_err(|error| failed(error.to_string()))?;
    }
    let mut png = Vec::new();
    PngEncoder::new(&mut png)
        .write_image(&pixels, size.0, size.1, ExtendedColorType::Rgb8)
        .map_err(|error| failed(error.to_string()))?;
    write_atomic(path, |file| file.write_all(&png)).map_err(io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, values: &[f64]) -> Line {
        let points = values.iter().enumerate();
        Line {
            name: name.into(),
            points: points.map(|(x, y)| (x as f64 + 1.0, *y)).collect(),
        }
    }

    fn sides(path: &Path) -> (u32, u32) {
        image::image_dimensions(path).unwrap()
    }

    #[test]
    fn curves_of_odd_lengths_and_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.png");
        let cases: [&[f64]; 6] = [
            &[],
            &[0.5],
            &[0.5, 0.5, 0.5],
            &[2.0, 1.0, f64::NAN, 0.4],
            &[f64::INFINITY],
            &[1e30, 1e-30],
        ];
        for values in cases {
            let panel = |percent| Panel {
                title: "loss".into(),
                percent,
                lines: vec![line("train", values), line("validation", values)],
            };
            curves(&path, "a run", &[panel(false), panel(true)]).unwrap();
            assert_eq!(sides(&path), (1280, 480));
        }
        curves(&path, "nothing", &[]).unwrap();
    }

    #[test]
    fn confusion_matrices_of_all_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.png");
        for classes in [0, 1, 2, 10, 100] {
            let names: Vec<String> = (0..classes).map(|class| format!("class {class}")).collect();
            let counts: Vec<Vec<u64>> = (0..classes)
                .map(|row| (0..classes).map(|column| (row * column) as u64).collect())
                .collect();
            confusion_matrix(&path, "test", &names, &counts).unwrap();
            assert!(sides(&path).0 < 2000);
        }
    }

    /// Writes samples for a look by eye: FORNAX_PLOTS=folder cargo test samples
    #[test]
    fn samples() {
        let Ok(folder) = std::env::var("FORNAX_PLOTS") else {
            return;
        };
        let folder = Path::new(&folder);
        let decay = |from: f64, rate: f64, floor: f64| -> Vec<f64> {
            (0..40)
                .map(|epoch| floor + from * (-rate * f64::from(epoch)).exp())
                .collect()
        };
        let rise =
            |values: Vec<f64>| -> Vec<f64> { values.iter().map(|v| 1.0 - v / 3.0).collect() };
        let panels = [
            Panel {
                title: "loss".into(),
                percent: false,
                lines: vec![
                    line("train", &decay(2.2, 0.2, 0.02)),
                    line("validation", &decay(2.0, 0.2, 0.08)),
                ],
            },
            Panel {
                title: "accuracy".into(),
                percent: true,
                lines: vec![
                    line("train", &rise(decay(2.2, 0.2, 0.02))),
                    line("validation", &rise(decay(2.0, 0.2, 0.08))),
                ],
            },
        ];
        curves(&folder.join("curves.png"), "digits", &panels).unwrap();
        let classes = [
            "T-shirt",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ]
        .map(String::from);
        let counts: Vec<Vec<u64>> = (0..10)
            .map(|row| {
                (0..10)
                    .map(|column| {
                        if row == column {
                            950
                        } else {
                            (row * column) % 7
                        }
                    })
                    .collect()
            })
            .collect();
        confusion_matrix(
            &folder.join("names.png"),
            "fashion: test",
            &classes,
            &counts,
        )
        .unwrap();
        let digits: Vec<String> = (0..10).map(|digit| digit.to_string()).collect();
        confusion_matrix(&folder.join("digits.png"), "digits: test", &digits, &counts).unwrap();
        let two = ["malignant", "benign"].map(String::from);
        let counts = vec![vec![40, 2], vec![1, 71]];
        confusion_matrix(&folder.join("two.png"), "breast-cancer", &two, &counts).unwrap();
    }
}
