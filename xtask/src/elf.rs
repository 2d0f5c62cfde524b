//! Whether an ELF file can run without a dynamic loader: it has no interpreter (PT_INTERP)
//! and asks for no shared library (DT_NEEDED in PT_DYNAMIC).
//!
//! A static position-independent executable has a PT_DYNAMIC segment all the same: it
//! relocates itself with what stands there. So the segment's entries are looked at.

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;

/// `Ok` when nothing dynamic is needed; otherwise what is.
pub fn verify_static(image: &[u8]) -> Result<(), String> {
    if image.get(..4) != Some(b"\x7fELF") {
        return Err("it is not an ELF file".to_owned());
    }
    if image.get(4..6) != Some(&[2, 1]) {
        return Err("it is not a 64-bit little-endian ELF file".to_owned());
    }
    let headers = program_headers(image).ok_or("its program headers are cut off")?;
    if headers.iter().any(|header| header.kind == PT_INTERP) {
        return Err("it names a dynamic loader (PT_INTERP)".to_owned());
    }
    if !headers.iter().any(|header| header.kind == PT_LOAD) {
        return Err("it has nothing to load".to_owned());
    }
    for header in headers.iter().filter(|header| header.kind == PT_DYNAMIC) {
        let end = header.offset.saturating_add(header.len);
        let section = image
            .get(header.offset..end)
            .ok_or("its dynamic section is cut off")?;
        let needed = section
            .chunks_exact(16)
            .map(|entry| u64_at(entry, 0).unwrap_or(DT_NULL))
            .take_while(|tag| *tag != DT_NULL)
            .filter(|tag| *tag == DT_NEEDED)
            .count();
        if needed > 0 {
            return Err(format!("it needs {needed} shared libraries (DT_NEEDED)"));
        }
    }
    Ok(())
}

struct ProgramHeader {
    kind: u32,
    offset: usize,
    len: usize,
}

fn program_headers(image: &[u8]) -> Option<Vec<ProgramHeader>> {
    let start = usize::try_from(u64_at(image, 32)?).ok()?;
    let size = usize::from(u16_at(image, 54)?);
    let count = usize::from(u16_at(image, 56)?);
    (0..count)
        .map(|index| {
            let header = image.get(start.checked_add(index * size)?..)?;
            Some(ProgramHeader {
                kind: u32::from_le_bytes(header.get(..4)?.try_into().ok()?),
                offset: usize::try_from(u64_at(header, 8)?).ok()?,
                len: usize::try_from(u64_at(header, 32)?).ok()?,
            })
        })
        .collect()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header, the given program headers (kind, content) and their contents.
    fn image(segments: &[(u32, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[32..40].copy_from_slice(&64u64.to_le_bytes());
        head[54..56].copy_from_slice(&56u16.to_le_bytes());
        head[56..58].copy_from_slice(&(segments.len() as u16).to_le_bytes());
        let mut contents = Vec::new();
        for (kind, content) in segments {
            let mut header = [0; 56];
            let offset = 64 + 56 * segments.len() + contents.len();
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&(offset as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            head.extend_from_slice(&header);
            contents.extend_from_slice(content);
        }
        head.extend_from_slice(&contents);
        head
    }

    fn dynamic(tags: &[u64]) -> Vec<u8> {
        tags.iter()
            .flat_map(|tag| [tag.to_le_bytes(), 7u64.to_le_bytes()].concat())
            .collect()
    }

    #[test]
    fn static_files_pass() {
        assert_eq!(verify_static(&image(&[(PT_LOAD, b"code")])), Ok(()));
        let relocating = dynamic(&[0x6fff_fef5, DT_NULL, DT_NEEDED]);
        assert_eq!(
            verify_static(&image(&[(PT_LOAD, b"code"), (PT_DYNAMIC, &relocating)])),
            Ok(())
        );
    }

    #[test]
    fn dynamic_files_do_not() {
        let loader = image(&[
            (PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0"),
            (PT_LOAD, b"code"),
        ]);
        assert!(verify_static(&loader).unwrap_err().contains("PT_INTERP"));
        let needing = dynamic(&[DT_NEEDED, DT_NULL]);
        let library = image(&[(PT_LOAD, b"code"), (PT_DYNAMIC, &needing)]);
        assert!(verify_static(&library).unwrap_err().contains("DT_NEEDED"));
    }

    #[test]
    fn other_bytes_are_errors() {
        assert!(verify_static(b"#!/bin/sh").is_err());
        assert!(verify_static(&[]).is_err());
        let mut cut = image(&[(PT_LOAD, b"code")]);
        cut.truncate(70);
        assert!(verify_static(&cut).is_err());
    }
}
