//! The curve of what a mesh costs as it grows, as an SVG.

use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::*;

/// Pixels.
const SIZE: (u32, u32) = (960, 640);

/// What was measured of one thing.
pub struct Curve {
    /// What, and its unit.
    pub title: String,
    /// Clusters, and the values that were measured with so many.
    pub points: Vec<(u8, f64)>,
}

/// Draws four curves, each beside the line of what costs twice as much with twice as many clusters.
pub fn draw(path: &Path, curves: &[Curve; 4]) -> anyhow::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    for (curve, area) in curves.iter().zip(root.split_evenly((2, 2))) {
        panel(&area, curve).with_context(|| format!("cannot draw {}", curve.title))?;
    }
    root.present().with_context(|| format!("cannot write {}", path.display()))
}

fn panel(area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>, curve: &Curve) -> anyhow::Result<()> {
    let points: Vec<_> = curve.points.iter().map(|&(clusters, value)| (f64::from(clusters), value)).collect();
    let (&first, &last) = points.first().zip(points.last()).context("nothing was measured")?;
    let twice = |clusters: f64| (clusters, first.1 * clusters / first.0);
    let top = points.iter().map(|point| point.1).fold(twice(last.0).1, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(&curve.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..last.0, 0.0..top * 1.05)?;
    chart.configure_mesh().x_desc("clusters").light_line_style(TRANSPARENT).draw()?;
    chart
        .draw_series(LineSeries::new([twice(0.0), twice(last.0)], BLACK.mix(0.4)))?
        .label("twice the clusters, twice the cost")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK.mix(0.4)));
    chart
        .draw_series(LineSeries::new(points, BLUE.stroke_width(2)).point_size(3))?
        .label("measured")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLUE.stroke_width(2)));
    let place = SeriesLabelPosition::UpperLeft;
    Ok(chart.configure_series_labels().position(place).border_style(TRANSPARENT).draw()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_all_points_and_its_titles() {
        let curves = ["a", "b", "c", "d"].map(|title| Curve {
            title: format!("title of {title}"),
            points: vec![(16, 1.0), (32, 3.0), (64, 4.0)],
        });
        let path = std::env::temp_dir().join(format!("tombolo-plot-{}.svg", std::process::id()));
        draw(&path, &curves).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(["a", "b", "c", "d"].iter().all(|title| svg.contains(&format!("title of {title}"))));
        assert_eq!(svg.matches("<circle").count(), 4 * 3);
    }
}
