//! Label names and colours in a label map: a NIfTI header extension as TotalSegmentator writes and reads it.
//!
//! The first extension, with code 0, contains XML as in Caret's label tables (`nifti_ext_header.py` of TotalSegmentator
//! 2.18): `<Label Key="1" Red="0.9" Green="0.2" Blue="0.2" Alpha="1"><![CDATA[spleen]]></Label>`.

use super::raw::ByteOrder;
use crate::formats::LabelNames;
use crate::space::label_colour;

/// Extensions beyond this many bytes are ignored; a table of every possible label is smaller.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// Size and code, which precede an extension's content.
const FRAME_BYTES: usize = 8;

/// The code for unregistered programs, and Caret's.
const CODES: [i32; 2] = [0, 30];

/// The four-byte extension flag, then the extension with these names; four zeros without names.
///
/// Its size is a multiple of 16, as `nifti1.h` requires; the XML is padded with spaces.
pub(super) fn extensions(names: &LabelNames, order: ByteOrder) -> Vec<u8> {
    if names.is_empty() {
        return vec![0; 4];
    }
    let mut xml = table(names).into_bytes();
    let bytes = (xml.len() + FRAME_BYTES).next_multiple_of(16);
    xml.resize(bytes - FRAME_BYTES, b' ');
    let number = |value: i32| match order {
        ByteOrder::Little => value.to_le_bytes(),
        ByteOrder::Big => value.to_be_bytes(),
    };
    // 65,535 names of file-name length stay far below 2^31.
    let size = i32::try_from(bytes).unwrap_or(i32::MAX);
    [&[1, 0, 0, 0][..], &number(size), &number(CODES[0]), &xml].concat()
}

fn table(names: &LabelNames) -> String {
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<CaretExtension>\n<VolumeInformation Index=\"0\">\n<LabelTable>\n".to_owned();
    for (value, name) in names {
        let [red, green, blue] = label_colour(*value).map(|part| f64::from(part) / 255.0);
        // XML 1.0 has no control characters, and CDATA ends at the first "]]>".
        let name: String = name
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let name = name.replace("]]>", "]]]]><![CDATA[>");
        xml += &format!(
            "<Label Key=\"{value}\" Red=\"{red:.4}\" Green=\"{green:.4}\" Blue=\"{blue:.4}\" Alpha=\"1\"><![CDATA[{name}]]></Label>\n"
        );
    }
    xml + "</LabelTable>\n<StudyMetaDataLinkSet></StudyMetaDataLinkSet>\n<VolumeType><![CDATA[Label]]></VolumeType>\n</VolumeInformation>\n</CaretExtension>\n"
}

/// The label names in the bytes between header and voxels; empty if there is no readable table.
pub(super) fn names_in(between: &[u8], order: ByteOrder) -> LabelNames {
    let Some((flag, mut rest)) = between.split_at_checked(4) else {
        return LabelNames::new();
    };
    if flag[0] == 0 {
        return LabelNames::new();
    }
    let number = |bytes: [u8; 4]| match order {
        ByteOrder::Little => i32::from_le_bytes(bytes),
        ByteOrder::Big => i32::from_be_bytes(bytes),
    };
    while let Some((frame, _)) = rest.split_first_chunk::<8>() {
        let [a, b, c, d, e, f, g, h] = *frame;
        let (size, code) = (number([a, b, c, d]), number([e, f, g, h]));
        let Ok(size @ 16..) = usize::try_from(size) else {
            break;
        };
        let Some((extension, next)) = rest.split_at_checked(size) else {
            break;
        };
        if CODES.contains(&code) {
            let names = parsed(&String::from_utf8_lossy(&extension[FRAME_BYTES..]));
            if !names.is_empty() {
                return names;
            }
        }
        rest = next;
    }
    LabelNames::new()
}

/// Every `<Label Key="…">name</Label>` with a value of at least 1 and a name.
fn parsed(xml: &str) -> LabelNames {
    let mut names = LabelNames::new();
    let mut rest = xml;
    while let Some(at) = rest.find("<Label ") {
        rest = &rest[at..];
        let Some(end) = rest.find('>') else { break };
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if tag.ends_with('/') {
            continue;
        }
        let (name, after) = content(after);
        rest = after;
        if let (Some(value @ 1..), false) = (key(tag), name.is_empty()) {
            names.insert(value, name);
        }
    }
    names
}

fn key(tag: &str) -> Option<u16> {
    let value = tag.split(" Key=").nth(1)?;
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    value[1..].split(quote).next()?.trim().parse().ok()
}

/// The text up to the end of the element, and the rest.
fn content(mut rest: &str) -> (String, &str) {
    let mut text = String::new();
    loop {
        if let Some(data) = rest.strip_prefix("<![CDATA[") {
            let end = data.find("]]>").unwrap_or(data.len());
            text += &data[..end];
            rest = data.get(end + 3..).unwrap_or_default();
        } else if rest.is_empty() || rest.starts_with('<') {
            let text: String = text
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            return (text.trim().to_owned(), rest);
        } else {
            let end = rest.find('<').unwrap_or(rest.len());
            text += &unescaped(&rest[..end]);
            rest = &rest[end..];
        }
    }
}

fn unescaped(text: &str) -> String {
    [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ]
    .into_iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(pairs: &[(u16, &str)]) -> LabelNames {
        pairs.iter().map(|(v, n)| (*v, (*n).to_owned())).collect()
    }

    #[test]
    fn awkward_names_round_trip_and_sizes_follow_the_format() {
        for given in [
            names(&[(1, "spleen")]),
            names(&[
                (1, "a ]]> b </Label> <Label Key=\"3\">"),
                (65_535, "größe & <x>"),
            ]),
            (1..=300).map(|v| (v, format!("structure {v}"))).collect(),
        ] {
            for order in [ByteOrder::Little, ByteOrder::Big] {
                let bytes = extensions(&given, order);
                assert_eq!((bytes[0], bytes.len() % 16), (1, 4));
                assert_eq!(names_in(&bytes, order), given);
                // In the other byte order the size is invalid, and nothing is read.
                let other = match order {
                    ByteOrder::Little => ByteOrder::Big,
                    ByteOrder::Big => ByteOrder::Little,
                };
                assert_eq!(names_in(&bytes, other), names(&[]));
            }
        }
        assert_eq!(extensions(&names(&[]), ByteOrder::Little), [0; 4]);
    }

    #[test]
    fn tables_of_other_programs_are_read() {
        let xml = "<LabelTable><Label Key=\"0\"><![CDATA[???]]></Label><Label Red='1' Key='2'> left &amp; right </Label>\
                   <Label Key=\"x\">no</Label><Label Key=\"4\"/><Label Key=\"70000\">no</Label></LabelTable>\0\0";
        assert_eq!(parsed(xml), names(&[(2, "left & right")]));
        // A comment first, then Caret's own code.
        let framed = |code: i32, content: &[u8]| {
            let size = (content.len() + 8).next_multiple_of(16);
            let mut bytes = [(size as i32).to_le_bytes(), code.to_le_bytes()].concat();
            bytes.extend(content);
            bytes.resize(size, 0);
            bytes
        };
        let file = [
            vec![1, 0, 0, 0],
            framed(6, b"a comment"),
            framed(30, xml.as_bytes()),
        ]
        .concat();
        assert_eq!(
            names_in(&file, ByteOrder::Little),
            names(&[(2, "left & right")])
        );
    }

    proptest! {
        #[test]
        fn damaged_extensions_do_not_panic(
            mut bytes in Just(extensions(&names(&[(1, "a"), (2, "]]>")]), ByteOrder::Little)),
            at in 0usize..400, value: u8, length in 0usize..500,
        ) {
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(length);
            names_in(&bytes, ByteOrder::Little);
            parsed(&String::from_utf8_lossy(&bytes));
        }
    }
}
