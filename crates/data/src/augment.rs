//! Random changes to training images that keep their class. What happens to a
//! sample is a function of `(seed, epoch, index)`, whatever batch it is in and
//! whichever thread makes it.

use crate::error::{Error, Result};
use crate::rng::{Philox, Purpose};
use crate::schema::{Input, Schema};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// One random change to an image. Several are applied in the order given,
/// before the scaling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Augment {
    /// Shifts the image by up to `padding` pixels each way (torchvision's
    /// `RandomCrop(size, padding)`): the border is padded with `fill` and a
    /// window of the image's own size cut out at random.
    RandomCrop {
        /// Pixels added on every side.
        padding: usize,
        /// What the border is filled with, on the scale 0 to 1.
        #[serde(default)]
        fill: f32,
    },
    /// Mirrors the image left to right with probability `p`.
    HorizontalFlip {
        /// The probability.
        #[serde(default = "half")]
        p: f32,
    },
    /// Turns the image by up to `degrees` either way and makes it up to
    /// `1 + scale` times as large or `1 - scale` times as small, about its
    /// centre, with bilinear interpolation (torchvision's `RandomAffine`);
    /// what comes in from outside is `fill`.
    Affine {
        /// The largest angle.
        #[serde(default)]
        degrees: f32,
        /// The largest relative change of size.
        #[serde(default)]
        scale: f32,
        /// What comes in from outside, on the scale 0 to 1.
        #[serde(default)]
        fill: f32,
    },
    /// With probability `p`, blanks a rectangle of 2% to 33% of the image and
    /// of aspect ratio 0.3 to 3.3 (Zhong et al., "Random Erasing Data
    /// Augmentation", 2017; torchvision's `RandomErasing`).
    Erase {
        /// The probability.
        #[serde(default = "half")]
        p: f32,
        /// What the rectangle is filled with, on the scale 0 to 1.
        #[serde(default)]
        fill: f32,
    },
}

fn half() -> f32 {
    0.5
}

impl Augment {
    /// [`Augment::RandomCrop`] with a border of zeros.
    pub fn random_crop(padding: usize) -> Self {
        Augment::RandomCrop { padding, fill: 0.0 }
    }

    /// [`Augment::HorizontalFlip`] of every other image.
    pub fn horizontal_flip() -> Self {
        Augment::HorizontalFlip { p: 0.5 }
    }

    /// [`Augment::Affine`] with zeros from outside.
    pub fn affine(degrees: f32, scale: f32) -> Self {
        Augment::Affine {
            degrees,
            scale,
            fill: 0.0,
        }
    }

    /// [`Augment::Erase`] with zeros.
    pub fn erase(p: f32) -> Self {
        Augment::Erase { p, fill: 0.0 }
    }
}

/// A list of changes, checked against the images they are for.
#[derive(Debug, Clone)]
pub(crate) struct Augmenter {
    steps: Vec<Augment>,
    height: usize,
    width: usize,
    seed: u64,
}

impl Augmenter {
    pub(crate) fn new(steps: &[Augment], schema: &Schema, seed: u64) -> Result<Self> {
        let Input::Image { height, width, .. } = schema.input else {
            return Err(Error::Mismatch(format!(
                "augmentation is for images, but the samples of \"{}\" are not",
                schema.name
            )));
        };
        for step in steps {
            let problem = match *step {
                Augment::HorizontalFlip { p } | Augment::Erase { p, .. }
                    if !(0.0..=1.0).contains(&p) =>
                {
                    format!("the probability {p} is not between 0 and 1")
                }
                Augment::Affine { degrees, .. } if !(0.0..=180.0).contains(&degrees) => {
                    format!("an angle of {degrees} degrees is not between 0 and 180")
                }
                Augment::Affine { scale, .. } if !(0.0..1.0).contains(&scale) => {
                    format!("a change of size of {scale} is not from 0 to less than 1")
                }
                Augment::RandomCrop { padding, .. } if padding >= height.min(width).max(1) => {
                    format!(
                        "a padding of {padding} can shift images of {height}x{width} out of sight"
                    )
                }
                _ => continue,
            };
            return Err(Error::Mismatch(format!(
                "augmentation of \"{}\": {problem}",
                schema.name
            )));
        }
        Ok(Augmenter {
            steps: steps.to_vec(),
            height,
            width,
            seed,
        })
    }

    /// Changes one image `[channels, height, width]` in place; `scratch` is
    /// room that is kept from image to image.
    pub(crate) fn apply(
        &self,
        image: &mut [f32],
        epoch: u64,
        index: usize,
        scratch: &mut Vec<f32>,
    ) {
        let mut rng = Philox::new(self.seed, Purpose::Augment, epoch, index);
        let plane = self.height * self.width;
        for step in &self.steps {
            match *step {
                Augment::RandomCrop { padding, fill } => {
                    let reach = 2 * padding + 1;
                    let down = rng.below(reach) as isize - padding as isize;
                    let right = rng.below(reach) as isize - padding as isize;
                    for plane in image.chunks_exact_mut(plane) {
                        shift(plane, self.width, down, right, fill);
                    }
                }
                Augment::HorizontalFlip { p } => {
                    if rng.unit() < p {
                        image
                            .chunks_exact_mut(self.width)
                            .for_each(<[f32]>::reverse);
                    }
                }
                Augment::Affine {
                    degrees,
                    scale,
                    fill,
                } => {
                    let angle = rng.between(-degrees, degrees).to_radians();
                    let size = rng.between(1.0 - scale, 1.0 + scale);
                    for plane in image.chunks_exact_mut(plane) {
                        scratch.clear();
                        scratch.extend_from_slice(plane);
                        affine(scratch, plane, self.width, angle, size, fill);
                    }
                }
                Augment::Erase { p, fill } => {
                    if rng.unit() < p {
                        let (rows, columns) = self.rectangle(&mut rng);
                        for row in image.chunks_exact_mut(plane).flat_map(|plane| {
                            plane
                                .chunks_exact_mut(self.width)
                                .take(rows.end)
                                .skip(rows.start)
                        }) {
                            row[columns.clone()].fill(fill);
                        }
                    }
                }
            }
        }
    }

    /// A random rectangle of the size that `Erase` wants, as rows and columns;
    /// empty if ten draws gave none that fits.
    fn rectangle(&self, rng: &mut Philox) -> (Range<usize>, Range<usize>) {
        let area = (self.height * self.width) as f32;
        for _ in 0..10 {
            let area = area * rng.between(0.02, 0.33);
            let aspect = rng.between(0.3f32.ln(), 3.3f32.ln()).exp();
            let h = (area * aspect).sqrt().round() as usize;
            let w = (area / aspect).sqrt().round() as usize;
            if h < self.height && w < self.width {
                let top = rng.below(self.height - h + 1);
                let left = rng.below(self.width - w + 1);
                return (top..top + h, left..left + w);
            }
        }
        (0..0, 0..0)
    }
}

/// Draws the plane `from` turned by `angle` (radians, clockwise) and made
/// `size` times as large about its centre into `to`.
fn affine(from: &[f32], to: &mut [f32], width: usize, angle: f32, size: f32, fill: f32) {
    let height = from.len() / width;
    let (cx, cy) = ((width as f32 - 1.0) / 2.0, (height as f32 - 1.0) / 2.0);
    let (sin, cos) = angle.sin_cos();
    let (sin, cos) = (sin / size, cos / size);
    let pixel = |x: f32, y: f32| {
        let inside = x >= 0.0 && y >= 0.0 && x < width as f32 && y < height as f32;
        if inside {
            from[y as usize * width + x as usize]
        } else {
            fill
        }
    };
    for (y, row) in to.chunks_exact_mut(width).enumerate() {
        for (x, out) in row.iter_mut().enumerate() {
            // Where this pixel comes from: the inverse of the turn and the scaling.
            let (dx, dy) = (x as f32 - cx, y as f32 - cy);
            let (sx, sy) = (cos * dx + sin * dy + cx, cos * dy - sin * dx + cy);
            let (x0, y0) = (sx.floor(), sy.floor());
            let (fx, fy) = (sx - x0, sy - y0);
            let top = pixel(x0, y0) * (1.0 - fx) + pixel(x0 + 1.0, y0) * fx;
            let bottom = pixel(x0, y0 + 1.0) * (1.0 - fx) + pixel(x0 + 1.0, y0 + 1.0) * fx;
            *out = top * (1.0 - fy) + bottom * fy;
        }
    }
}

/// Moves the rows of a plane of the given width `down` and `right`, in place;
/// what comes in from outside is `fill`.
fn shift(plane: &mut [f32], width: usize, down: isize, right: isize, fill: f32) {
    let rows = down.unsigned_abs() * width;
    let len = plane.len();
    if down > 0 {
        plane.copy_within(..len - rows, rows);
        plane[..rows].fill(fill);
    } else if down < 0 {
        plane.copy_within(rows.., 0);
        plane[len - rows..].fill(fill);
    }
    let columns = right.unsigned_abs();
    for row in plane.chunks_exact_mut(width) {
        if right > 0 {
            row.copy_within(..width - columns, columns);
            row[..columns].fill(fill);
        } else if right < 0 {
            row.copy_within(columns.., 0);
            row[width - columns..].fill(fill);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::TargetKind;

    fn schema(channels: usize, height: usize, width: usize) -> Schema {
        Schema {
            name: "pictures".into(),
            input: Input::Image {
                channels,
                height,
                width,
            },
            target: TargetKind::Classes { names: vec![] },
        }
    }

    #[test]
    fn shifts_in_all_directions() {
        let image = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let shifted = |down, right| {
            let mut plane = image;
            shift(&mut plane, 3, down, right, 9.0);
            plane
        };
        assert_eq!(shifted(0, 0), image);
        assert_eq!(shifted(1, 0), [9.0, 9.0, 9.0, 1.0, 2.0, 3.0]);
        assert_eq!(shifted(-1, 0), [4.0, 5.0, 6.0, 9.0, 9.0, 9.0]);
        assert_eq!(shifted(0, 1), [9.0, 1.0, 2.0, 9.0, 4.0, 5.0]);
        assert_eq!(shifted(0, -2), [3.0, 9.0, 9.0, 6.0, 9.0, 9.0]);
        assert_eq!(shifted(1, -1), [9.0, 9.0, 9.0, 2.0, 3.0, 9.0]);
    }

    #[test]
    fn every_crop_of_the_padded_image_occurs() {
        let crops = Augmenter::new(&[Augment::random_crop(1)], &schema(1, 2, 2), 3).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for index in 0..500 {
            let mut image = [1.0, 2.0, 3.0, 4.0];
            crops.apply(&mut image, 0, index, &mut vec![]);
            seen.insert(image.map(|x| x as u8));
        }
        assert_eq!(seen.len(), 9);
    }

    #[test]
    fn a_flip_mirrors_every_row_of_every_channel() {
        let step = Augment::HorizontalFlip { p: 1.0 };
        let flips = Augmenter::new(&[step], &schema(2, 2, 2), 0).unwrap();
        let mut image = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        flips.apply(&mut image, 0, 0, &mut vec![]);
        assert_eq!(image, [2.0, 1.0, 4.0, 3.0, 6.0, 5.0, 8.0, 7.0]);
    }

    #[test]
    fn the_change_depends_on_seed_epoch_and_index_only() {
        let steps = [
            Augment::random_crop(3),
            Augment::horizontal_flip(),
            Augment::affine(20.0, 0.1),
            Augment::erase(0.5),
        ];
        let make = |seed, epoch, index| {
            let augmenter = Augmenter::new(&steps, &schema(1, 8, 8), seed).unwrap();
            let mut image: Vec<f32> = (0..64).map(|x| x as f32).collect();
            augmenter.apply(&mut image, epoch, index, &mut vec![]);
            image
        };
        assert_eq!(make(1, 2, 3), make(1, 2, 3));
        let others = [make(2, 2, 3), make(1, 3, 3), make(1, 2, 4)];
        assert!(others.iter().any(|o| *o != make(1, 2, 3)));
    }

    #[test]
    fn a_quarter_turn_is_exact() {
        let image = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
        let mut turned = [0.0; 9];
        affine(
            &image,
            &mut turned,
            3,
            std::f32::consts::FRAC_PI_2,
            1.0,
            0.0,
        );
        let want = [7.0, 4.0, 1.0, 8.0, 5.0, 2.0, 9.0, 6.0, 3.0];
        for (got, want) in turned.iter().zip(want) {
            assert!((got - want).abs() < 1e-4, "{turned:?}");
        }
        affine(&image, &mut turned, 3, 0.0, 1.0, 0.0);
        assert_eq!(turned, image);
        affine(&image, &mut turned, 3, 0.0, 2.0, 0.0);
        assert_eq!(turned, [3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0]);
    }

    #[test]
    fn erasing_blanks_one_rectangle_in_every_channel() {
        let eraser = Augmenter::new(&[Augment::erase(1.0)], &schema(3, 10, 12), 1).unwrap();
        let mut total = 0;
        for index in 0..100 {
            let mut image = vec![1.0; 360];
            eraser.apply(&mut image, 0, index, &mut vec![]);
            let blank: Vec<usize> = (0..120).filter(|&i| image[i] == 0.0).collect();
            assert!(blank.len() <= 48, "{}", blank.len());
            for c in 1..3 {
                assert_eq!(image[..120], image[c * 120..][..120]);
            }
            if let (Some(first), Some(last)) = (blank.first(), blank.last()) {
                let (h, w) = (last / 12 - first / 12 + 1, last % 12 - first % 12 + 1);
                assert_eq!(h * w, blank.len());
            }
            total += blank.len();
        }
        assert!(total > 1000, "{total}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut table = schema(1, 4, 4);
        let steps = [Augment::random_crop(4)];
        assert!(Augmenter::new(&steps, &table, 0).is_err());
        let steps = [Augment::HorizontalFlip { p: 1.5 }];
        assert!(Augmenter::new(&steps, &table, 0).is_err());
        table.input = Input::Array { shape: vec![4] };
        let text = Augmenter::new(&[], &table, 0).unwrap_err().to_string();
        assert!(text.contains("augmentation is for images"), "{text}");
    }
}
