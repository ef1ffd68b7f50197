//! Makes untrusted text safe to print: control characters in a file name could forge lines, move a terminal's cursor or
//! reverse the text direction.

use std::borrow::Cow;
use std::path::Path;

/// The text on one line, with control characters escaped as in JSON, such as `\n` and `\u001b`; JSON keeps its value.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_control)
}

/// [`one_line`], but keeps line breaks.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && is_control(c))
}

/// Paths and names in messages.
pub trait Shown {
    /// On one line, see [`one_line`].
    fn shown(&self) -> String;
}

impl Shown for str {
    fn shown(&self) -> String {
        one_line(self).into_owned()
    }
}

impl Shown for Path {
    fn shown(&self) -> String {
        one_line(&self.to_string_lossy()).into_owned()
    }
}

/// Includes Unicode line separators and text direction marks.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            _ if !is_escaped(c) => plain.push(c),
            '\n' => plain += "\\n",
            '\r' => plain += "\\r",
            '\t' => plain += "\\t",
            _ => plain += &format!("\\u{:04x}", u32::from(c)),
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_control_characters_are_escaped() {
        let name = "a\nerror: b\u{1b}[2J\u{9b}31m\t\u{7f}\u{202e}größe\\n";
        let expected = r"a\nerror: b\u001b[2J\u009b31m\t\u007f\u202egröße\n";
        assert_eq!(one_line(name), expected);
        assert_eq!(Path::new(name).shown(), expected);
        assert_eq!(one_line(&one_line(name)), expected);
        assert_eq!(lines("a\nb\rc\n"), "a\nb\\rc\n");
        assert!(matches!(one_line("größe"), Cow::Borrowed("größe")));
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({"a\n\u{9b}": "\u{7f}\u{202e}\u{1b}\\"});
        let text = lines(&format!("{value:#}")).into_owned();
        assert!(!text.contains(['\u{9b}', '\u{7f}', '\u{202e}']));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }
}
