//! Words and numbers out of the kernel's text files.
//!
//! Bytes in, because names of devices, mounts and processes need not be UTF-8. What cannot be read is `None`; nothing
//! here panics, whatever the bytes.

pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// A decimal integer without sign.
pub(super) fn integer(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// A finite decimal number.
pub(super) fn decimal(word: &[u8]) -> Option<f64> {
    std::str::from_utf8(word).ok()?.parse().ok().filter(|number: &f64| number.is_finite())
}

/// The first `N` words as integers. More words are fields of newer kernels.
pub(super) fn integers<'a, const N: usize>(words: impl Iterator<Item = &'a [u8]>) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    let mut words = words.map(integer);
    for number in &mut numbers {
        *number = words.next()??;
    }
    Some(numbers)
}

/// A name for people and terminals: valid UTF-8 without control characters.
pub(super) fn name(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if text.contains(char::is_control) {
        text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
    } else {
        text.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_are_an_integer() {
        assert_eq!(integer(b"18446744073709551615"), Some(u64::MAX));
        for word in [&b""[..], b"-1", b"+1", b"1x", b"18446744073709551616", b"\xff"] {
            assert_eq!(integer(word), None, "{word:?}");
        }
    }

    #[test]
    fn a_missing_word_is_missed_and_a_further_one_ignored() {
        assert_eq!(integers(words(b" 1  2\t3 ")), Some([1, 2]));
        assert_eq!(integers::<4>(words(b"1 2 3")), None);
        assert_eq!(integers::<2>(words(b"1 x 3")), None);
    }

    #[test]
    fn a_name_cannot_steer_a_terminal() {
        assert_eq!(name(b"a\x1b[31m\n"), "a\u{fffd}[31m\u{fffd}");
        assert_eq!(name(b"caf\xe9"), "caf\u{fffd}");
    }

    #[test]
    fn not_every_float_is_a_number() {
        assert_eq!(decimal(b"0.59"), Some(0.59));
        for word in [&b"nan"[..], b"inf", b"", b"1e999"] {
            assert_eq!(decimal(word), None, "{word:?}");
        }
    }
}
