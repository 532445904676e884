//! Verses out of the files of the SWORD project: `zText` modules, which are blocks of verses that
//! are compressed together.
//!
//! Of each testament, `ot` and `nt`, there are three files. `.bzv` has a record for each verse:
//! `u32` block, `u32` where it starts in the unpacked block, `u16` size. `.bzs` has one for each
//! block: `u32` where it starts in `.bzz`, `u32` packed size, `u32` unpacked size. Modules of the
//! same numbering of verses have as many records, so verses of two languages pair up by their place.

use crate::error::{Error, Result};
use crate::file;
use flate2::read::ZlibDecoder;
use std::io::Read;
use std::path::Path;

/// More bytes in a block than any book has.
const MOST: u64 = 1 << 26;

/// The text of every verse, without markup; empty where there is none.
pub(super) fn verses(folder: &Path) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for testament in ["ot", "nt"] {
        all.extend(read(folder, testament)?);
    }
    Ok(all)
}

fn read(folder: &Path, testament: &str) -> Result<Vec<String>> {
    let path = |ending: &str| folder.join(format!("{testament}.{ending}"));
    let damaged = |ending: &str, place: String, problem: String| {
        Error::format(&path(ending), place, problem, "fetch the files again")
    };
    let packed = file::read(&path("bzz"))?;
    let mut blocks = Vec::new();
    for (i, record) in records::<12>(&path("bzs"))?.iter().enumerate() {
        let (start, size) = (number(&record[..4]), number(&record[4..8]));
        let bytes = packed.get(start..start.saturating_add(size));
        let bytes = bytes.ok_or_else(|| {
            damaged(
                "bzs",
                format!("block {i}"),
                "lies outside the .bzz file".into(),
            )
        })?;
        let mut block = Vec::new();
        let unpacked = ZlibDecoder::new(bytes).take(MOST).read_to_end(&mut block);
        unpacked.map_err(|e| {
            damaged(
                "bzz",
                format!("block {i}"),
                format!("cannot be unpacked ({e})"),
            )
        })?;
        blocks.push(block);
    }
    let mut verses = Vec::new();
    for (i, record) in records::<10>(&path("bzv"))?.iter().enumerate() {
        let (block, start) = (number(&record[..4]), number(&record[4..8]));
        let size = number(&record[8..]);
        let text = match size {
            0 => &[][..],
            _ => {
                let block = blocks.get(block);
                let text = block.and_then(|block| block.get(start..start.saturating_add(size)));
                text.ok_or_else(|| {
                    damaged("bzv", format!("verse {i}"), "lies outside its block".into())
                })?
            }
        };
        verses.push(plain(&String::from_utf8_lossy(text)));
    }
    Ok(verses)
}

/// The records of a file, of `N` bytes each.
fn records<const N: usize>(path: &Path) -> Result<Vec<[u8; N]>> {
    let bytes = file::read(path)?;
    let (records, rest) = bytes.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(Error::format(
            path,
            "the end",
            format!("a record of {N} bytes is cut short"),
            "fetch the files again",
        ));
    }
    Ok(records.to_vec())
}

fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rev()
        .fold(0, |all, &byte| all << 8 | usize::from(byte))
}

/// The words of a verse in OSIS markup: titles and notes are not among them.
fn plain(markup: &str) -> String {
    let mut text = String::new();
    // The element whose content is passed over, and how many of it are open.
    let mut skipped: Option<(&str, usize)> = None;
    let mut rest = markup;
    while let Some(start) = rest.find('<') {
        if skipped.is_none() {
            text.push_str(&rest[..start]);
        }
        let Some(end) = rest[start..].find('>') else {
            rest = "";
            break;
        };
        let tag = &rest[start + 1..start + end];
        rest = &rest[start + end + 1..];
        let closes = tag.starts_with('/');
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/'])
            .next()
            .unwrap_or_default();
        skipped = match skipped {
            _ if tag.ends_with('/') => skipped,
            Some((open, 1)) if closes && name == open => None,
            Some((open, n)) if name == open => Some((open, if closes { n - 1 } else { n + 1 })),
            None if !closes && matches!(name, "title" | "note") => Some((name, 1)),
            other => other,
        };
    }
    if skipped.is_none() {
        text.push_str(rest);
    }
    for (name, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&amp;", "&"),
    ] {
        text = text.replace(name, character);
    }
    let words: Vec<&str> = text
        .split_whitespace()
        .filter(|word| *word != "¶")
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use std::io::Write;

    /// A testament of one block a verse.
    fn write(folder: &Path, testament: &str, verses: &[&str]) {
        let (mut bzs, mut bzv, mut bzz) = (Vec::new(), Vec::new(), Vec::new());
        for (i, verse) in verses.iter().enumerate() {
            let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
            packer.write_all(verse.as_bytes()).unwrap();
            let packed = packer.finish().unwrap();
            for number in [bzz.len(), packed.len(), verse.len()] {
                bzs.extend((number as u32).to_le_bytes());
            }
            bzv.extend((i as u32).to_le_bytes());
            bzv.extend(0u32.to_le_bytes());
            bzv.extend((verse.len() as u16).to_le_bytes());
            bzz.extend(packed);
        }
        for (ending, bytes) in [("bzs", bzs), ("bzv", bzv), ("bzz", bzz)] {
            std::fs::write(folder.join(format!("{testament}.{ending}")), bytes).unwrap();
        }
    }

    #[test]
    fn verses_are_read_without_markup() {
        let folder = tempfile::tempdir().unwrap();
        write(
            folder.path(),
            "ot",
            &[
                "",
                "<title>The <w>First</w> Book</title> <div type=\"x\"/>",
                "<title>A</title>¶ In the <w lemma=\"H1\">beginning</w><note n=\"<\">or first</note>, \
                 God  &amp; all. ",
            ],
        );
        write(folder.path(), "nt", &["LIBRO <w>de la</w> generación"]);
        assert_eq!(
            verses(folder.path()).unwrap(),
            [
                "",
                "",
                "In the beginning, God & all.",
                "LIBRO de la generación"
            ]
        );
    }

    #[test]
    fn damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for testament in ["ot", "nt"] {
            write(folder.path(), testament, &["one", "two"]);
        }
        let nt = |ending: &str| folder.path().join(format!("nt.{ending}"));
        for (ending, place, expected) in [
            ("bzs", 4, "lies outside the .bzz file"),
            ("bzv", 4, "lies outside its block"),
            ("bzv", 0, "lies outside its block"),
            ("bzz", 0, "cannot be unpacked"),
        ] {
            let good = std::fs::read(nt(ending)).unwrap();
            let mut bad = good.clone();
            bad[place..place + 4].fill(0xff);
            std::fs::write(nt(ending), bad).unwrap();
            let message = verses(folder.path()).unwrap_err().to_string();
            assert!(message.contains(expected), "{ending}: {message}");
            std::fs::write(nt(ending), &good[..good.len() - 1]).unwrap();
            assert!(verses(folder.path()).is_err(), "{ending} cut short");
            std::fs::write(nt(ending), good).unwrap();
        }
    }
}
