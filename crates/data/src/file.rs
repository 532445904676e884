//! Reading files whole, gzipped or not.

use crate::error::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::io::Read;
use std::path::Path;

/// The bytes of a regular file. Anything else (a folder, a pipe, a device that
/// never ends) is refused.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let meta = std::fs::metadata(path).map_err(Error::io(path))?;
    if !meta.is_file() {
        let kind = if meta.is_dir() {
            "a folder"
        } else {
            "not a regular file"
        };
        return Err(Error::format(
            path,
            "the path",
            format!("is {kind}"),
            "name a file",
        ));
    }
    std::fs::read(path).map_err(Error::io(path))
}

/// Whether the bytes start as a gzip file does.
pub(crate) fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

/// At most `limit` bytes of what a gzip file holds. Memory grows with what is
/// really there, whatever the file promises.
pub(crate) fn gunzip(path: &Path, bytes: &[u8], limit: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    MultiGzDecoder::new(bytes)
        .take(limit)
        .read_to_end(&mut out)
        .map_err(|e| {
            Error::format(
                path,
                format!("byte {} of the unpacked content", out.len()),
                format!("the gzip data is damaged or cut short ({e})"),
                "fetch the file again",
            )
        })?;
    Ok(out)
}
