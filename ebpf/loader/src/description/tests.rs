use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

fn record() -> impl Strategy<Value = RecordDescription> {
    let field = (0..3_usize, 1..20_usize, select(FieldKind::ALL));
    (vec(field, 0..6), 0..4_usize).prop_map(|(list, behind)| {
        let (mut fields, mut end) = (Vec::new(), 0);
        for (i, (gap, size, kind)) in list.into_iter().enumerate() {
            fields.push(FieldDescription { name: format!("field_{i}"), offset: end + gap, size, kind });
            end += gap + size;
        }
        RecordDescription { size: end + behind, fields }
    })
}

fn description() -> impl Strategy<Value = Description> {
    let kind = select(MapKind::ALL);
    let map = (kind, any::<u32>(), any::<u32>(), record(), record());
    vec(map, 0..6).prop_map(|list| {
        let map = |(i, (kind, entries, version, key, value))| MapDescription {
            name: format!("MAP_{i}"),
            kind,
            entries,
            version,
            key,
            value,
        };
        Description { maps: list.into_iter().enumerate().map(map).collect() }
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(description in description()) {
        prop_assert_eq!(Description::parse(description.to_string().as_bytes()), Ok(description));
    }

    #[test]
    fn any_bytes_are_refused(bytes in vec(any::<u8>(), 0..300)) {
        prop_assume!(!bytes.starts_with(b"layout"));
        prop_assert!(Description::parse(&bytes).is_err());
    }

    #[test]
    fn a_part_is_refused(description in description(), place in any::<prop::sample::Index>()) {
        let text = description.to_string();
        prop_assert!(Description::parse(&text.as_bytes()[..place.index(text.len() - 1)]).is_err());
    }

    /// An error names a line of the text, or the one behind it; and what is read in spite of the change is consistent.
    #[test]
    fn a_changed_byte_is_read_or_refused(
        description in description(),
        place in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), select(b" \n#09a".to_vec())],
    ) {
        let mut text = description.to_string().into_bytes();
        let place = place.index(text.len());
        text[place] = byte;
        let lines = text.split(|&byte| byte == b'\n').count();
        match Description::parse(&text) {
            Ok(read) => prop_assert_eq!(Description::parse(read.to_string().as_bytes()), Ok(read)),
            Err(DescriptionError::Unexpected { line, .. }) => prop_assert!((1..=lines).contains(&line)),
            Err(error @ DescriptionError::TooLong(_)) => prop_assert!(false, "{error}"),
        }
    }
}

#[test]
fn the_own_maps_are_described() {
    let current = Description::current();
    assert_eq!(current.maps.len(), map::ALL.len());
    let text = current.to_string();
    assert_eq!(Description::parse(text.as_bytes()), Ok(current.clone()));
    assert!(
        text.contains("\nmap FRAGMENT lru_hash entries 8192 version 1\nkey 40\nfield source 0 16 bytes\n"),
        "{text}"
    );
    assert!(text.contains("\nfield identification 32 4 number\n"), "{text}");
    let key = &current.map("POLICY").unwrap().key;
    assert_eq!((key.size, key.fields[0].name.as_str()), (12, "prefix_len"));
    assert_eq!(current.map("NONE"), None);
}

#[test]
fn lines_for_people_say_nothing() {
    let text = b"\n# a\n  layout 1\r\n\nmap A hash entries 1 version 2\nkey 0\n # b\nvalue 4\nfield x 0 4 number\n\nend";
    let read = Description::parse(text).unwrap();
    assert_eq!(read.maps[0].value.fields[0].size, 4);
}

fn refused(text: &str, line: usize, expected: &str, found: &str) {
    let error = DescriptionError::Unexpected { line, expected: expected.into(), found: found.into() };
    assert_eq!(Description::parse(text.as_bytes()), Err(error), "{text}");
}

#[test]
fn errors_of_maps_say_where_and_what_was_expected() {
    refused("", 1, "`layout`", "nothing more");
    refused("layout 2", 1, "1, the version of this format", "\"2\"");
    refused("layout 1\nmaps", 2, "`field`, `map` or `end`", "\"maps\"");
    refused("layout 1\nend 1", 2, "the end of the line", "\"1\"");
    refused("layout 1\nend\nend", 3, "nothing behind `end`", "\"end\"");
    let kinds = "one of hash, lru_hash, lpm_trie, array, percpu_array, ringbuf";
    refused("layout 1\nmap A tree", 2, kinds, "\"tree\"");
    refused("layout 1\nmap A hash entries -1", 2, "a number of 32 bits", "\"-1\"");
    refused("layout 1\nmap A hash entries 4294967296", 2, "a number of 32 bits", "\"4294967296\"");
    refused("layout 1\nmap A hash entries 1 version 1", 3, "`key`", "nothing more");
}

#[test]
fn errors_of_fields_say_where_and_what_was_expected() {
    let head = "layout 1\nmap A hash entries 1 version 1\nkey 8\nfield a 0 4 number\n";
    let refused =
        |rest: &str, line, expected: &str, found| refused(&format!("{head}{rest}"), line, expected, found);
    let name =
        |of: &str| format!("a name of at most 64 letters, digits and underscores that no other {of} has");
    refused("", 5, "`value`", "nothing more");
    refused("field b/c", 5, &name("field"), "\"b/c\"");
    refused("field a", 5, &name("field"), "\"a\"");
    refused("field b 3", 5, "an offset from 4 on and below 8", "\"3\"");
    refused("field b 8", 5, "an offset from 4 on and below 8", "\"8\"");
    refused("field b 5 4", 5, "a size from 1 to 3", "\"4\"");
    refused("field b 5 0", 5, "a size from 1 to 3", "\"0\"");
    refused("field b 5 3 text", 5, "`number` or `bytes`", "\"text\"");
    refused("field b 5 3 bytes 7", 5, "the end of the line", "\"7\"");
    refused("value 4097", 5, "a size from 0 to 4096", "\"4097\"");
    refused("value 0\nmap A", 6, &name("map"), "\"A\"");
}

#[test]
fn other_bytes_and_too_many_are_refused() {
    let error = Description::parse(b"layout 1\nmap \xff").unwrap_err().to_string();
    let wanted = "line 2 of the description of maps: expected text in UTF-8, found \"\u{fffd}\"";
    assert_eq!(error, wanted);
    let long = vec![b'\n'; Description::MAX_BYTES + 1];
    assert_eq!(Description::parse(&long), Err(DescriptionError::TooLong(long.len())));
    assert!(matches!(Description::parse(&long[1..]), Err(DescriptionError::Unexpected { .. })));
}
