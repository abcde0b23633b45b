//! The frames of backups and of pieces of the log, checked as they come: `storage/src/frames.rs` in the server's source
//! says what they are. Nothing is unpacked here.

use serde::Deserialize;
use serde_json::Value;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A state.
    Backup,
    /// A piece of the log.
    Log,
}

impl Kind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Kind::Backup => b"STKBAK01",
            Kind::Log => b"STKLOG01",
        }
    }
}

/// The newest format that is known here.
const FORMAT: u64 = 1;
const MAX_HEADER_BYTES: usize = 1 << 20;
const MAX_BLOCK_BYTES: usize = 2 << 20;

/// What a backup says of itself, as far as it is looked at here.
#[derive(Debug, Clone, Deserialize)]
pub struct About {
    pub format: u64,
    pub cluster_id: String,
    pub log_index: u64,
    pub digest: String,
    /// Of a backup.
    #[serde(default)]
    pub state_hash: String,
    /// Of a backup.
    #[serde(default)]
    pub orders_placed: u64,
    /// Of a backup: how much is inside.
    pub snapshot_bytes: Option<u64>,
    /// Of a piece of the log: it begins behind this entry.
    pub after: Option<u64>,
    pub node_id: u64,
    pub version: String,
    pub created_at: String,
}

/// Reads a file from its first byte on, in parts of any size.
pub struct Frames {
    kind: Kind,
    buffer: Vec<u8>,
    /// The header as it stands in the file, once it is here.
    pub header: Option<Value>,
    about: Option<About>,
    whole: Xxh3,
    blocks: u32,
    plain_bytes: u64,
    ended: bool,
}

impl Frames {
    /// Nothing read yet.
    pub fn new(kind: Kind) -> Self {
        Frames {
            kind,
            buffer: Vec::new(),
            header: None,
            about: None,
            whole: Xxh3::new(),
            blocks: 0,
            plain_bytes: 0,
            ended: false,
        }
    }

    /// Takes more bytes.
    ///
    /// # Errors
    /// What is wrong with the file, for people.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.buffer.extend_from_slice(bytes);
        while let Some(length) = self.next_frame()? {
            self.buffer.drain(..length);
        }
        Ok(())
    }

    /// The header, once it is here.
    pub fn about(&self) -> Option<&About> {
        self.about.as_ref()
    }

    /// How much of the snapshot inside is here.
    pub fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// The header, if the file is whole.
    ///
    /// # Errors
    /// What is missing.
    pub fn finish(&self) -> Result<&About, String> {
        match &self.about {
            Some(about) if self.ended && about.snapshot_bytes.is_none_or(|all| all == self.plain_bytes) => {
                Ok(about)
            }
            Some(_) => {
                Err(format!("it ends too soon: {} bytes of what is inside are here", self.plain_bytes))
            }
            None => Err("it ends in its header".into()),
        }
    }

    /// Checks the frame at the start of the buffer; its length, or `None` where it is not all here.
    fn next_frame(&mut self) -> Result<Option<usize>, String> {
        if self.ended {
            return if self.buffer.is_empty() { Ok(None) } else { Err("it goes on behind its end".into()) };
        }
        let frame = if self.about.is_none() { self.header_frame()? } else { self.block_frame()? };
        Ok(frame)
    }

    fn header_frame(&mut self) -> Result<Option<usize>, String> {
        let seen = self.buffer.len().min(8);
        if self.buffer[..seen] != self.kind.magic()[..seen] {
            return Err("it is no such file of Stockroom".into());
        }
        let Some(fields) = self.buffer.get(8..20) else { return Ok(None) };
        let length = u32_at(fields, 0) as usize;
        if length > MAX_HEADER_BYTES {
            return Err("its header is longer than can be".into());
        }
        let sum = u64_at(fields, 4);
        let Some(json) = self.buffer.get(20..20 + length) else { return Ok(None) };
        if xxh3_64(json) != sum {
            return Err("its header does not match its checksum".into());
        }
        let unreadable = |error: serde_json::Error| format!("its header cannot be read: {error}");
        let about: About = serde_json::from_slice(json).map_err(unreadable)?;
        if about.format > FORMAT {
            let (format, version) = (about.format, &about.version);
            return Err(format!(
                "it is of format {format}, written by version {version}: use a newer stockctl"
            ));
        }
        self.header = Some(serde_json::from_slice(json).map_err(unreadable)?);
        self.about = Some(about);
        self.whole.update(&self.buffer[..20 + length]);
        Ok(Some(20 + length))
    }

    fn block_frame(&mut self) -> Result<Option<usize>, String> {
        let Some(fields) = self.buffer.get(..16) else { return Ok(None) };
        let packed = u32_at(fields, 0) as usize;
        if packed == 0 {
            return self.footer_frame();
        }
        let (plain, sum) = (u32_at(fields, 4), u64_at(fields, 8));
        if packed > MAX_BLOCK_BYTES {
            return Err("a block is longer than can be".into());
        }
        let Some(bytes) = self.buffer.get(16..16 + packed) else { return Ok(None) };
        if xxh3_64(bytes) != sum {
            return Err(format!("block {} does not match its checksum", self.blocks));
        }
        self.whole.update(&self.buffer[..16 + packed]);
        self.blocks += 1;
        self.plain_bytes += u64::from(plain);
        Ok(Some(16 + packed))
    }

    fn footer_frame(&mut self) -> Result<Option<usize>, String> {
        let Some(footer) = self.buffer.get(..32) else { return Ok(None) };
        let (blocks, bytes) = (u32_at(footer, 4), u64_at(footer, 8));
        let sum = u128::from_le_bytes(footer[16..].try_into().map_err(|_| "its end is too short")?);
        self.whole.update(&self.buffer[..16]);
        if (blocks, bytes, sum) != (self.blocks, self.plain_bytes, self.whole.digest128()) {
            return Err("its last checksum does not match: it is not as it was written".into());
        }
        self.ended = true;
        Ok(Some(32))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, byte| (number << 8) | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// A backup of these blocks, as a node writes it (nothing is unpacked here, so nothing is packed).
    pub fn backup(blocks: &[&[u8]]) -> Vec<u8> {
        let plain: usize = blocks.iter().map(|block| block.len()).sum();
        let about = json!({"format": 1, "cluster_id": "c".repeat(32), "log_index": 7, "digest": "d", "state_hash": "s",
            "orders_placed": 5, "snapshot_bytes": plain, "node_id": 2, "version": "0.1.0", "created_at": "2026-11-21T00:00:00Z"});
        let json = about.to_string().into_bytes();
        let mut file = Kind::Backup.magic().to_vec();
        file.extend((json.len() as u32).to_le_bytes());
        file.extend(xxh3_64(&json).to_le_bytes());
        file.extend(json);
        for block in blocks {
            file.extend((block.len() as u32).to_le_bytes());
            file.extend((block.len() as u32).to_le_bytes());
            file.extend(xxh3_64(block).to_le_bytes());
            file.extend(*block);
        }
        file.extend(0u32.to_le_bytes());
        file.extend((blocks.len() as u32).to_le_bytes());
        file.extend((plain as u64).to_le_bytes());
        let whole = xxhash_rust::xxh3::xxh3_128(&file);
        file.extend(whole.to_le_bytes());
        file
    }

    fn check(file: &[u8], step: usize) -> Result<(), String> {
        let mut frames = Frames::new(Kind::Backup);
        file.chunks(step).try_for_each(|piece| frames.push(piece))?;
        frames.finish().map(|_| ())
    }

    #[test]
    fn a_whole_file_is_whole_in_pieces_of_any_size() {
        let file = backup(&[b"some rows", b"and more of them"]);
        for step in [1, 3, 16, file.len()] {
            check(&file, step).unwrap();
        }
        check(&backup(&[]), 5).unwrap();
    }

    #[test]
    fn a_file_that_was_cut_or_changed_anywhere_is_not() {
        let file = backup(&[b"some rows", b"and more of them"]);
        for end in 0..file.len() {
            check(&file[..end], 7).unwrap_err();
        }
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            check(&changed, 11).unwrap_err();
        }
        check(&[&file[..], b"x"].concat(), 9).unwrap_err();
    }
}
