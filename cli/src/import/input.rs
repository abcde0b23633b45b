//! Files of newline-delimited JSON: plain or gzip, told apart by their first bytes; `-` is stdin.

use crate::problem::Failure;
use flate2::read::MultiGzDecoder;
use std::{
    fs::File,
    io::{BufRead, BufReader, Cursor, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Longest line that is read, in bytes: more than a batch may hold. A file without line ends must not fill the memory.
const MAX_LINE_BYTES: u64 = 8 << 20;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const BUFFER_BYTES: usize = 256 << 10;

/// How far a file has been read, for the progress bar.
#[derive(Clone, Default)]
pub struct Position {
    /// Bytes of the file itself, so that a compressed file has an end too.
    pub read: Arc<AtomicU64>,
}

/// The lines of one file with their numbers, counted from 1. Empty lines are passed over.
pub struct Lines {
    path: String,
    reader: BufReader<Box<dyn Read + Send>>,
    number: u64,
    buffer: Vec<u8>,
}

struct Counted<R> {
    inner: R,
    position: Position,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.position.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The sizes of these files together, in bytes; `None` with stdin among them.
pub fn size(paths: &[String]) -> Option<u64> {
    paths.iter().map(|path| std::fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| m.len())).sum()
}

impl Lines {
    /// Opens a file, or stdin for `-`.
    ///
    /// # Errors
    /// It cannot be opened or read.
    pub fn open(path: &str, position: &Position) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::file(path, &error);
        let raw: Box<dyn Read + Send> = if path == "-" {
            Box::new(std::io::stdin())
        } else {
            Box::new(File::open(path).map_err(failed)?)
        };
        let mut raw = Counted { inner: raw, position: position.clone() };
        let mut magic = Vec::new();
        (&mut raw).take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic).map_err(failed)?;
        let zipped = magic == GZIP_MAGIC;
        let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(magic).chain(raw));
        let inner: Box<dyn Read + Send> =
            if zipped { Box::new(MultiGzDecoder::new(whole)) } else { Box::new(whole) };
        Ok(Lines {
            path: path.into(),
            reader: BufReader::with_capacity(BUFFER_BYTES, inner),
            number: 0,
            buffer: Vec::new(),
        })
    }

    /// The next line that holds anything; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read (or unpacked) any further, or a line has no end.
    pub fn next(&mut self) -> Result<Option<(u64, &[u8])>, Failure> {
        loop {
            self.buffer.clear();
            let n = (&mut self.reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut self.buffer).map_err(
                |error| Failure::file(&format!("{} after line {}", self.path, self.number), &error),
            )?;
            if n == 0 {
                return Ok(None);
            }
            self.number += 1;
            if n as u64 == MAX_LINE_BYTES && self.buffer.last() != Some(&b'\n') {
                let error = std::io::Error::other(format!("longer than {MAX_LINE_BYTES} bytes"));
                return Err(Failure::file(&format!("{} line {}", self.path, self.number), &error));
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(Some((self.number, self.buffer.trim_ascii())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn lines(bytes: &[u8]) -> Vec<(u64, String)> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut lines = Lines::open(file.path().to_str().unwrap(), &Position::default()).unwrap();
        let mut all = Vec::new();
        while let Some((number, line)) = lines.next().unwrap() {
            all.push((number, String::from_utf8(line.to_vec()).unwrap()));
        }
        all
    }

    #[test]
    fn plain_and_gzip_files_read_alike() {
        let text = b"{\"a\":1}\r\n\n{\"a\":2}";
        let expected = vec![(1, "{\"a\":1}".to_owned()), (3, "{\"a\":2}".to_owned())];
        assert_eq!(lines(text), expected);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).unwrap();
        assert_eq!(lines(&gzip.finish().unwrap()), expected);
        assert!(lines(b"").is_empty());
    }
}
