//! Bounds on JSON text before anything is built from it.

use super::message::MessageError;

/// Deepest nesting of arrays and objects that is read. Real messages have at most six levels; page data may add a few.
pub const DEPTH_MAX: usize = 32;

/// Most values in one message. The longest real ones (device lists) have some hundreds. A parsed value takes some
/// tens of bytes whatever its length in the text, so this bounds memory where the size of the text does not.
pub const VALUES_MAX: usize = 20_000;

/// Looks at brackets and commas outside strings; whether the text is JSON at all is the parser's business.
pub(super) fn check(text: &str) -> Result<(), MessageError> {
    let (mut depth, mut values, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                values += 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
        if depth > DEPTH_MAX {
            return Err(MessageError::TooDeep);
        }
        if values > VALUES_MAX {
            return Err(MessageError::TooManyValues);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_commas_count_outside_strings_only() {
        let text = format!(r#"{{"message":"{}\"{}","data":[]}}"#, "[".repeat(100), ",".repeat(VALUES_MAX));
        assert_eq!(check(&text), Ok(()));
        assert_eq!(check(&"[".repeat(DEPTH_MAX)), Ok(()));
        assert_eq!(check(&"[".repeat(DEPTH_MAX + 1)), Err(MessageError::TooDeep));
        assert_eq!(check(&format!("[{}", "0,".repeat(VALUES_MAX))), Err(MessageError::TooManyValues));
    }
}
