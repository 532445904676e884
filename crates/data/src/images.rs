//! Pictures: decoding PNG and JPEG files, and datasets that are folders of
//! them, one folder per class (`class/name.png`).

use crate::dataset::{Dataset, Features, InMemory, Targets};
use crate::error::{Error, Result};
use crate::schema::{Input, Schema, TargetKind};
use image::imageops::FilterType;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The form that every picture of a dataset is brought into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageForm {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Grey or coloured.
    pub colour: Colour,
}

/// Grey or coloured pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// One channel.
    Grey,
    /// Three channels: red, green, blue.
    Rgb,
}

impl ImageForm {
    /// A form of the given size.
    pub fn new(height: usize, width: usize, colour: Colour) -> Self {
        ImageForm {
            height,
            width,
            colour,
        }
    }

    /// The form of the pictures of a dataset, to bring a new one into; `None`
    /// if its samples are not pictures of 1 or 3 channels.
    pub fn of(schema: &Schema) -> Option<Self> {
        match schema.input {
            Input::Image {
                channels,
                height,
                width,
            } => {
                let colour = match channels {
                    1 => Colour::Grey,
                    3 => Colour::Rgb,
                    _ => return None,
                };
                Some(ImageForm::new(height, width, colour))
            }
            _ => None,
        }
    }

    fn channels(&self) -> usize {
        match self.colour {
            Colour::Grey => 1,
            Colour::Rgb => 3,
        }
    }

    fn len(&self) -> usize {
        self.channels() * self.height * self.width
    }

    fn check(&self) -> Result<()> {
        let range = 1..=16_384;
        match range.contains(&self.height) && range.contains(&self.width) {
            true => Ok(()),
            false => Err(Error::Mismatch(format!(
                "images cannot be brought to {}x{} pixels; both must be from 1 to 16384",
                self.height, self.width
            ))),
        }
    }
}

/// Decodes an image file (PNG or JPEG, told by its content), brings it into
/// `form` (bilinear with anti-aliasing; the aspect ratio is not kept), and
/// returns its pixels `[channels, height, width]` between 0 and 1.
///
/// # Errors
/// If the file cannot be read or decoded.
pub fn read_image(path: impl AsRef<Path>, form: ImageForm) -> Result<Vec<f32>> {
    form.check()?;
    let mut bytes = vec![0; form.len()];
    decode(path.as_ref(), form, &mut bytes)?;
    Ok(bytes.into_iter().map(|b| f32::from(b) / 255.0).collect())
}

fn decode(path: &Path, form: ImageForm, out: &mut [u8]) -> Result<()> {
    let bad = |e: &dyn std::fmt::Display| Error::Image {
        path: path.to_owned(),
        problem: e.to_string(),
    };
    let bytes = crate::file::read(path)?;
    // The default limits refuse pictures that would unpack to more than 512 MiB.
    let mut picture = image::ImageReader::new(std::io::Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| bad(&e))?
        .decode()
        .map_err(|e| bad(&e))?;
    let (width, height) = (form.width as u32, form.height as u32);
    picture = match form.colour {
        Colour::Grey => picture.into_luma8().into(),
        Colour::Rgb => picture.into_rgb8().into(),
    };
    if (picture.width(), picture.height()) != (width, height) {
        picture = picture.resize_exact(width, height, FilterType::Triangle);
    }
    let channels = form.channels();
    let plane = form.height * form.width;
    let pixels = picture.as_bytes();
    for (i, pixel) in pixels.chunks_exact(channels).enumerate() {
        for (c, &value) in pixel.iter().enumerate() {
            out[c * plane + i] = value;
        }
    }
    Ok(())
}

/// A dataset of pictures in folders, one folder per class: `class/name.png`.
///
/// Classes and files are in the order of their names. Pictures may lie in
/// folders within a class's folder. Files that are not called `.png`, `.jpg` or
/// `.jpeg`, and names that start with a dot, are passed over. Pictures are decoded when they
/// are read; [`ImageFolder::load`] decodes all at once into memory.
///
/// ```no_run
/// use fornax_data::{Colour, Dataset, ImageFolder, ImageForm};
///
/// let flowers = ImageFolder::open("flowers", ImageForm::new(64, 64, Colour::Rgb))?;
/// println!("{} pictures of {:?}", flowers.len(), flowers.schema().classes());
/// let data = flowers.load()?.shared();
/// # Ok::<(), fornax_data::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ImageFolder {
    schema: Schema,
    form: ImageForm,
    files: Vec<(PathBuf, i64)>,
}

const LAYOUT: &str = "lay it out as CLASS/NAME.png, one folder per class";
/// What folders are called that hold a part of a data set, and the part.
const PARTS: &[(&str, usize)] = &[
    ("train", 0),
    ("val", 1),
    ("valid", 1),
    ("validation", 1),
    ("test", 2),
];

/// The folders of a set of pictures that is published in parts, each with its class folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageParts {
    /// `train`.
    pub train: PathBuf,
    /// `val`, `valid` or `validation`.
    pub validation: Option<PathBuf>,
    /// `test`.
    pub test: Option<PathBuf>,
}

impl ImageParts {
    /// The parts in `root`, or `None` if it holds the classes themselves.
    ///
    /// # Errors
    /// If a folder cannot be read, there are two for one part, or none for training, or it cannot
    /// be told whether `train` is a part or a class.
    pub fn find(root: impl AsRef<Path>) -> Result<Option<Self>> {
        let root = root.as_ref();
        let mut parts = [None, None, None];
        let mut other = None;
        for (path, name, is_dir) in entries(root)? {
            if !is_dir {
                continue;
            }
            let known = PARTS
                .iter()
                .find(|(part, _)| name.eq_ignore_ascii_case(part));
            let Some((_, part)) = known else {
                other = Some(name);
                continue;
            };
            // A class may be called "train"; then pictures lie in it, not classes.
            let inside = entries(&path)?;
            if inside.is_empty() || !inside.iter().all(|(_, _, is_dir)| *is_dir) {
                continue;
            }
            if let Some(other) = parts[*part].replace(path) {
                return Err(Error::folder(
                    root,
                    format!("{name} and {} are the same part", other.display()),
                    "remove or rename one",
                ));
            }
        }
        if let ([Some(_), None, None], Some(other)) = (&parts, other) {
            return Err(Error::folder(
                root,
                format!("the folder train is a part of a data set, but {other} beside it is none"),
                "remove the other folder; or, if both are classes, put the pictures of train into \
                 it without folders",
            ));
        }
        match parts {
            [Some(train), validation, test] => Ok(Some(ImageParts {
                train,
                validation,
                test,
            })),
            [None, None, None] => Ok(None),
            [None, validation, test] => Err(Error::folder(
                &validation.or(test).unwrap_or_default(),
                "is a part of a data set, but there is no folder train beside it",
                "lay it out as train/CLASS/NAME.png, with val and test beside train",
            )),
        }
    }
}

impl ImageFolder {
    /// Looks for pictures in `root`.
    ///
    /// # Errors
    /// If the folder is missing, has no class folders, or a class has no pictures.
    pub fn open(root: impl AsRef<Path>, form: ImageForm) -> Result<Self> {
        ImageFolder::scan(root.as_ref(), form, None)
    }

    /// Looks for pictures of given classes in `root`, in their given order: for a
    /// test folder beside a training folder. A class may be absent from it.
    ///
    /// # Errors
    /// As [`open`](ImageFolder::open), and if there is a class that is not given.
    pub fn open_with_classes(
        root: impl AsRef<Path>,
        form: ImageForm,
        classes: &[String],
    ) -> Result<Self> {
        ImageFolder::scan(root.as_ref(), form, Some(classes))
    }

    fn scan(root: &Path, form: ImageForm, given: Option<&[String]>) -> Result<Self> {
        form.check()?;
        let mut folders = Vec::new();
        for (path, name, is_dir) in entries(root)? {
            if is_dir {
                folders.push((path, name));
            } else if is_image(&path) {
                return Err(Error::folder(
                    root,
                    format!("the picture {name} is in no class folder"),
                    LAYOUT,
                ));
            }
        }
        if folders.is_empty() {
            return Err(Error::folder(
                root,
                "there are no class folders in it",
                LAYOUT,
            ));
        }
        let names: Vec<String> = match given {
            Some(names) => names.to_vec(),
            None => folders.iter().map(|(_, name)| name.clone()).collect(),
        };
        let mut files = Vec::new();
        for (path, name) in folders {
            let mut found = Vec::new();
            pictures(&path, 0, &mut found)?;
            if found.is_empty() {
                return Err(Error::folder(
                    &path,
                    "the class has no pictures (.png, .jpg, .jpeg)",
                    "add some or remove the folder",
                ));
            }
            let class = names.iter().position(|n| *n == name);
            let class = class.ok_or_else(|| Error::ClassNotInTraining {
                class: name,
                part: root
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into(),
                count: found.len(),
            })?;
            files.extend(found.into_iter().map(|path| (path, class as i64)));
        }
        let name = root
            .file_name()
            .map_or("images".into(), |n| n.to_string_lossy());
        Ok(ImageFolder {
            schema: Schema {
                name: name.into(),
                input: Input::Image {
                    channels: form.channels(),
                    height: form.height,
                    width: form.width,
                },
                target: TargetKind::Classes { names },
            },
            form,
            files,
        })
    }

    /// The file of sample `index`.
    pub fn path(&self, index: usize) -> &Path {
        &self.files[index].0
    }

    /// Decodes all pictures into memory, on all cores.
    ///
    /// # Errors
    /// If a picture cannot be read; of several, the first in order is named.
    pub fn load(&self) -> Result<InMemory> {
        let size = self.form.len();
        let mut data = vec![0u8; size * self.files.len()];
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.files.len().div_ceil(threads).max(1);
        let results: Vec<Result<()>> = std::thread::scope(|scope| {
            let workers: Vec<_> = data
                .chunks_mut(size * share)
                .zip(self.files.chunks(share))
                .map(|(out, files)| {
                    scope.spawn(move || {
                        let mut pairs = out.chunks_exact_mut(size).zip(files);
                        pairs.try_for_each(|(out, (path, _))| decode(path, self.form, out))
                    })
                })
                .collect();
            let join = |w: std::thread::ScopedJoinHandle<'_, Result<()>>| match w.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            workers.into_iter().map(join).collect()
        });
        results.into_iter().collect::<Result<()>>()?;
        let features = Features::Bytes {
            data,
            divisor: 255.0,
        };
        let labels = self.files.iter().map(|(_, class)| *class).collect();
        InMemory::new(self.schema.clone(), features, Targets::Classes(labels))
    }
}

impl Dataset for ImageFolder {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn len(&self) -> usize {
        self.files.len()
    }

    fn read(&self, index: usize, x: &mut [f32]) -> Result<()> {
        x.copy_from_slice(&read_image(self.path(index), self.form)?);
        Ok(())
    }

    fn class(&self, index: usize) -> i64 {
        self.files[index].1
    }
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
    ["png", "jpg", "jpeg"].iter().any(|e| extension == *e)
}

/// What is in a folder, by name: path, name, and whether it is a folder itself.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, String, bool)>> {
    let listing = std::fs::read_dir(folder).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::folder(folder, "there is no such folder", "check the path")
        }
        std::io::ErrorKind::NotADirectory => Error::folder(folder, "is not a folder", LAYOUT),
        _ => Error::io(folder)(e),
    })?;
    let mut entries = Vec::new();
    for entry in listing {
        let entry = entry.map_err(Error::io(folder))?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            let is_dir = path.is_dir();
            entries.push((path, name, is_dir));
        }
    }
    entries.sort();
    Ok(entries)
}

fn pictures(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<()> {
    // Links can make folders endless.
    if depth > 16 {
        return Err(Error::folder(folder, "is nested too deeply", LAYOUT));
    }
    for (path, _, is_dir) in entries(folder)? {
        if is_dir {
            pictures(&path, depth + 1, found)?;
        } else if is_image(&path) {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(root: &Path, name: &str, width: u32, height: u32, colour: [u8; 3]) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_pixel(width, height, image::Rgb(colour))
            .save(path)
            .unwrap();
    }

    const FORM: ImageForm = ImageForm {
        height: 2,
        width: 3,
        colour: Colour::Rgb,
    };

    #[test]
    fn folders_are_classes_in_the_order_of_their_names() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        save(root, "red/b.png", 3, 2, [255, 0, 0]);
        save(root, "red/a.PNG", 9, 7, [51, 0, 0]);
        save(root, "blue/deep/x.jpg", 8, 8, [0, 0, 255]);
        std::fs::write(root.join("red/notes.txt"), "x").unwrap();
        std::fs::write(root.join(".hidden.png"), "x").unwrap();
        let folder = ImageFolder::open(root, FORM).unwrap();
        assert_eq!(folder.schema().classes().unwrap(), ["blue", "red"]);
        assert_eq!(folder.len(), 3);
        let data = folder.load().unwrap();
        for set in [&folder as &dyn Dataset, &data] {
            let mut x = [0.0; 18];
            set.read(1, &mut x).unwrap();
            assert_eq!(set.class(1), 1);
            assert_eq!(x[..6], [0.2; 6]);
            assert_eq!(x[6..], [0.0; 12]);
            set.read(0, &mut x).unwrap();
            assert!(x[12..].iter().all(|b| *b > 0.98), "{x:?}");
        }
        let grey = ImageForm {
            colour: Colour::Grey,
            ..FORM
        };
        assert_eq!(
            ImageFolder::open(root, grey)
                .unwrap()
                .schema()
                .sample_shape(),
            [1, 2, 3]
        );
    }

    #[test]
    fn parts_are_told_from_classes() {
        let tmp = tempfile::tempdir().unwrap();
        let set = |name: &str, files: &[&str]| {
            let root = tmp.path().join(name);
            for file in files {
                save(&root, file, 3, 2, [1, 2, 3]);
            }
            ImageParts::find(&root).map_err(|error| error.to_string())
        };
        let parts = set("all", &["train/a/1.png", "Valid/a/1.png", "test/a/1.png"]);
        let parts = parts.unwrap().unwrap();
        assert!(parts.train.ends_with("train") && parts.test.is_some());
        assert!(parts.validation.unwrap().ends_with("Valid"));
        let parts = set("two", &["train/a/1.png", "val/a/1.png"])
            .unwrap()
            .unwrap();
        assert!(parts.validation.is_some() && parts.test.is_none());
        // Vehicles.
        assert_eq!(set("classes", &["train/1.png", "car/1.png"]), Ok(None));
        let text = set("lone", &["val/a/1.png", "other/1.png"]).unwrap_err();
        assert!(
            text.contains("no folder train beside it; lay it out as train/"),
            "{text}"
        );
        let text = set("mixed", &["train/a/1.png", "car/1.png"]).unwrap_err();
        assert!(text.contains("car beside it is none"), "{text}");
        let both = ["train/a/1.png", "val/a/1.png", "validation/a/1.png"];
        assert!(set("both", &both).unwrap_err().contains("the same part"));
    }

    #[test]
    fn shrinking_averages() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("stripes.png");
        let stripes = image::GrayImage::from_fn(64, 64, |x, _| image::Luma([(x % 2 * 255) as u8]));
        stripes.save(&path).unwrap();
        let x = read_image(&path, ImageForm::new(8, 8, Colour::Grey)).unwrap();
        assert!(x.iter().all(|v| (v - 0.5).abs() < 0.05), "{x:?}");
    }

    #[test]
    fn unreadable_pictures_are_named() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        save(root, "a/good.png", 3, 2, [1, 2, 3]);
        std::fs::write(root.join("a/bad.png"), b"no picture").unwrap();
        let folder = ImageFolder::open(root, FORM).unwrap();
        let text = folder.load().unwrap_err().to_string();
        assert!(text.contains("bad.png: not a readable image"), "{text}");
        let text = folder.read(0, &mut [0.0; 18]).unwrap_err().to_string();
        assert!(text.contains("bad.png"), "{text}");
        // A header that promises 2^31 by 2^31 pixels.
        let mut png = std::fs::read(root.join("a/good.png")).unwrap();
        png[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
        let mut crc = flate2::Crc::new();
        crc.update(&png[12..29]);
        png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        std::fs::write(root.join("a/bad.png"), png).unwrap();
        let text = folder.load().unwrap_err().to_string();
        assert!(text.contains("bad.png: not a readable image"), "{text}");
    }

    #[test]
    fn folders_of_the_wrong_layout_are_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        let message = |p: &Path| ImageFolder::open(p, FORM).unwrap_err().to_string();
        assert!(message(&root.join("none")).contains("there is no such folder"));
        assert!(message(root).contains("no class folders"));
        std::fs::create_dir(root.join("empty")).unwrap();
        assert!(message(root).contains("the class has no pictures"));
        save(root, "loose.png", 1, 1, [0; 3]);
        assert!(message(root).contains("loose.png is in no class folder"));
        assert!(message(&root.join("loose.png")).contains("is not a folder"));
        let none = ImageForm { height: 0, ..FORM };
        assert!(ImageFolder::open(root, none).is_err());
    }

    #[test]
    fn a_class_absent_from_training_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        save(tmp.path(), "test/b/x.png", 1, 1, [0; 3]);
        let test = tmp.path().join("test");
        let known = ["a".to_string(), "b".to_string()];
        let folder = ImageFolder::open_with_classes(&test, FORM, &known).unwrap();
        assert_eq!(folder.class(0), 1);
        let error = ImageFolder::open_with_classes(&test, FORM, &known[..1]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("the class \"b\" has 1 sample(s) in the test part"),
            "{error}"
        );
    }
}
