//! Makes arbitrary bytes pass every checksum of the format, so that what they say is believed.
//!
//! A checksum keeps chance away from what is behind it. Whoever looks for what that does with hostile values must
//! get past it: places, lengths, counts, checksums and the chain are put right, all else stays.

const PAGE: usize = 4096;
const BATCH_HEADER: usize = 64;
const RECORD_HEADER: usize = 24;
/// Bytes of an entry that the batch's checksum covers, and those of its header.
const ENTRY_CHECKED: usize = 8;
const ENTRY_HEADER: usize = 36;

/// A segment of this generation out of `bytes`, as in `docs/wal-format.md`.
pub fn segment(bytes: &mut Vec<u8>, generation: u32, cluster: u64, node: u64) {
    bytes.resize(bytes.len().max(PAGE), 0);
    let length = bytes.len() as u64;
    let copy = &mut bytes[..64];
    put(copy, 0, b"PNTN-WAL");
    put(copy, 8, &1u32.to_le_bytes());
    put(copy, 16, &cluster.to_le_bytes());
    put(copy, 24, &node.to_le_bytes());
    put(copy, 32, &u64::from(generation).to_le_bytes());
    put(copy, 48, &length.to_le_bytes());
    put(copy, 56, &[0; 8]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&copy[..12]), &copy[16..]);
    put(copy, 12, &checksum.to_le_bytes());
    let salt = u64::from_le_bytes(copy[40..48].try_into().unwrap());
    let (mut at, mut last) = (PAGE, (0, 0));
    while at + BATCH_HEADER <= bytes.len() {
        let (end, checksum) = batch(bytes, at, generation, salt, last);
        last = (u64::from(generation) << 32 | at as u64, checksum);
        at = end;
    }
}

/// A batch at `at`; returns where it ends and its header's checksum.
fn batch(
    bytes: &mut [u8],
    at: usize,
    generation: u32,
    salt: u64,
    last: (u64, u32),
) -> (usize, u32) {
    let mut seed = [0; 16];
    put(&mut seed, 0, &salt.to_le_bytes());
    put(&mut seed, 8, &generation.to_le_bytes());
    put(&mut seed, 12, &(at as u32).to_le_bytes());
    let seed = crc32c::crc32c(&seed);
    let (header, rest) = bytes[at..].split_at_mut(BATCH_HEADER);
    // A few say what they like of what is behind them, and only their headers hold.
    let is_frank = header[49] % 4 != 3;
    let body_bytes = u32_at(header, 40) as usize % (rest.len() + 1) / 8 * 8;
    let body_bytes = if is_frank { body_bytes } else { 0 };
    let (records, body_checksum) = body(&mut rest[..body_bytes], seed);
    put(header, 4, b"PBch");
    put(
        header,
        8,
        &(u64::from(generation) << 32 | at as u64).to_le_bytes(),
    );
    put(header, 24, &last.0.to_le_bytes());
    put(header, 32, &last.1.to_le_bytes());
    put(header, 36, &body_checksum.to_le_bytes());
    if is_frank {
        put(header, 40, &(body_bytes as u32).to_le_bytes());
        put(header, 44, &records.to_le_bytes());
    }
    header[48] &= 1;
    let checksum = crc32c::crc32c_append(seed, &header[4..]);
    put(header, 0, &checksum.to_le_bytes());
    (at + BATCH_HEADER + body_bytes, checksum)
}

/// The records of a batch; returns how many, and their checksum.
fn body(body: &mut [u8], seed: u32) -> (u32, u32) {
    let (mut at, mut records, mut checksum) = (0, 0, seed);
    while body.len() - at >= RECORD_HEADER {
        let record = &mut body[at..];
        let room = record.len() - RECORD_HEADER;
        let length = u32_at(record, 0) as usize % (room + 1);
        put(record, 0, &(length as u32).to_le_bytes());
        // Every kind there is, none of those that there may be some day.
        record[4] = [1, 2, 3, 4, 6, 7, 8, 9][usize::from(record[4]) % 8];
        let holds_an_entry = matches!(record[4], 1 | 7);
        let payload = &mut record[RECORD_HEADER..][..length];
        if holds_an_entry && length >= ENTRY_HEADER {
            put(payload, 0, &(length as u32).to_le_bytes());
            let of_entry = crc32c::crc32c(&payload[8..]);
            put(payload, 4, &of_entry.to_le_bytes());
        }
        let covered = if holds_an_entry {
            length.min(ENTRY_CHECKED)
        } else {
            length
        };
        checksum = crc32c::crc32c_append(checksum, &record[..RECORD_HEADER + covered]);
        records += 1;
        at += (RECORD_HEADER + length.next_multiple_of(8)).min(body.len() - at);
    }
    (records, checksum)
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}
