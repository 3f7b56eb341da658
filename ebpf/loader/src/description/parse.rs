//! From text to a description. The text may come from anybody.

use std::{iter::Peekable, str::SplitAsciiWhitespace, vec};

use tombolo_abi::MapKind;

use super::{Description, FieldDescription, MapDescription, RecordDescription, Word};

/// The version of the format.
pub(super) const FORMAT: u32 = 1;

/// Characters of the longest name of a map or a field.
const MAX_NAME: usize = 64;
/// The largest key or value in bytes.
const MAX_RECORD: usize = 4096;
/// Characters of a wrong word that an error shows.
const MAX_SHOWN: usize = 40;

/// A text is no description of maps.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DescriptionError {
    /// It is too long.
    #[error("the description of maps has {0} bytes, and at most {max} are read", max = Description::MAX_BYTES)]
    TooLong(usize),
    /// A line is not what it should be.
    #[error("line {line} of the description of maps: expected {expected}, found {found}")]
    Unexpected {
        /// The line, from 1.
        line: usize,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl DescriptionError {
    fn unexpected(line: usize, expected: &str, found: Option<&str>) -> Self {
        let found = found.map_or_else(
            || "nothing more".to_owned(),
            |word| format!("{:?}", word.chars().take(MAX_SHOWN).collect::<String>()),
        );
        Self::Unexpected { line, expected: expected.to_owned(), found }
    }
}

impl Description {
    /// Reads what `to_string` writes.
    ///
    /// # Errors
    /// More than [`Self::MAX_BYTES`] bytes, or a line that is not what it should be.
    pub fn parse(text: &[u8]) -> Result<Self, DescriptionError> {
        if text.len() > Self::MAX_BYTES {
            return Err(DescriptionError::TooLong(text.len()));
        }
        let mut lines = Lines::new(text)?;
        let mut header = lines.expect("layout")?;
        header.take("1, the version of this format", |word| number(word).filter(|&n| n == FORMAT))?;
        header.end()?;
        let mut maps = Vec::new();
        while let Some(line) = lines.next_if("map") {
            maps.push(parse_map(line, &mut lines, &maps)?);
        }
        match lines.next_if("end") {
            Some(line) => line.end()?,
            None => return Err(lines.unexpected("`field`, `map` or `end`")),
        }
        lines.end()?;
        Ok(Self { maps })
    }
}

fn parse_map(
    mut line: Line<'_>,
    lines: &mut Lines<'_>,
    others: &[MapDescription],
) -> Result<MapDescription, DescriptionError> {
    let is_new = |name: &str| is_name(name) && others.iter().all(|other| other.name != name);
    let name = line.take(&new_name("map"), |word| is_new(word).then(|| word.to_owned()))?;
    let kinds: Vec<_> = MapKind::ALL.iter().map(|kind| kind.word()).collect();
    let kind = line.take(&format!("one of {}", kinds.join(", ")), find)?;
    line.take("`entries`", |word| (word == "entries").then_some(()))?;
    let entries = line.take("a number of 32 bits", number)?;
    line.take("`version`", |word| (word == "version").then_some(()))?;
    let version = line.take("a number of 32 bits", number)?;
    line.end()?;
    let key = parse_record(lines.expect("key")?, lines)?;
    let value = parse_record(lines.expect("value")?, lines)?;
    Ok(MapDescription { name, kind, entries, version, key, value })
}

fn parse_record(mut line: Line<'_>, lines: &mut Lines<'_>) -> Result<RecordDescription, DescriptionError> {
    let size = line.take(&format!("a size from 0 to {MAX_RECORD}"), |word| within(word, 0, MAX_RECORD))?;
    line.end()?;
    let mut record = RecordDescription { size, fields: Vec::new() };
    while let Some(line) = lines.next_if("field") {
        let field = parse_field(line, &record)?;
        record.fields.push(field);
    }
    Ok(record)
}

fn parse_field(mut line: Line<'_>, record: &RecordDescription) -> Result<FieldDescription, DescriptionError> {
    let is_new = |name: &str| is_name(name) && record.fields.iter().all(|other| other.name != name);
    let name = line.take(&new_name("field"), |word| is_new(word).then(|| word.to_owned()))?;
    let from = record.fields.last().map_or(0, |last| last.offset + last.size);
    let expected = format!("an offset from {from} on and below {}", record.size);
    let offset = line.take(&expected, |word| within(word, from, record.size).filter(|&n| n < record.size))?;
    let room = record.size - offset;
    let size = line.take(&format!("a size from 1 to {room}"), |word| within(word, 1, room))?;
    let kind = line.take("`number` or `bytes`", find)?;
    line.end()?;
    Ok(FieldDescription { name, offset, size, kind })
}

fn new_name(of: &str) -> String {
    format!("a name of at most {MAX_NAME} letters, digits and underscores that no other {of} has")
}

fn is_name(word: &str) -> bool {
    word.len() <= MAX_NAME && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn number(word: &str) -> Option<u32> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok())?
}

fn within(word: &str, from: usize, to: usize) -> Option<usize> {
    number(word).map(|number| number as usize).filter(|number| (from..=to).contains(number))
}

fn find<T: Word>(wanted: &str) -> Option<T> {
    T::ALL.iter().copied().find(|kind| kind.word() == wanted)
}

/// The lines that say something.
struct Lines<'t> {
    lines: Peekable<vec::IntoIter<Line<'t>>>,
    /// The number of the line behind the last one.
    end: usize,
}

impl<'t> Lines<'t> {
    fn new(text: &'t [u8]) -> Result<Self, DescriptionError> {
        let text = str::from_utf8(text).map_err(|e| {
            let before = text.get(..e.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
            let found = String::from_utf8_lossy(text.get(e.valid_up_to()..).unwrap_or_default());
            DescriptionError::unexpected(line, "text in UTF-8", Some(&found))
        })?;
        let lines: Vec<_> = text.lines().enumerate().filter_map(|(i, line)| Line::new(i + 1, line)).collect();
        Ok(Self { lines: lines.into_iter().peekable(), end: text.lines().count() + 1 })
    }

    fn next_if(&mut self, keyword: &str) -> Option<Line<'t>> {
        self.lines.next_if(|line| line.keyword == keyword)
    }

    fn expect(&mut self, keyword: &str) -> Result<Line<'t>, DescriptionError> {
        self.next_if(keyword).ok_or_else(|| self.unexpected(&format!("`{keyword}`")))
    }

    fn end(&mut self) -> Result<(), DescriptionError> {
        if self.lines.peek().is_some() { Err(self.unexpected("nothing behind `end`")) } else { Ok(()) }
    }

    fn unexpected(&mut self, expected: &str) -> DescriptionError {
        let next = self.lines.peek();
        let line = next.map_or(self.end, |line| line.number);
        DescriptionError::unexpected(line, expected, next.map(|line| line.keyword))
    }
}

/// A line that begins with a word and is not for people.
struct Line<'t> {
    number: usize,
    keyword: &'t str,
    words: SplitAsciiWhitespace<'t>,
}

impl<'t> Line<'t> {
    fn new(number: usize, line: &'t str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let keyword = words.next().filter(|word| !word.starts_with('#'))?;
        Some(Self { number, keyword, words })
    }

    /// What `read` makes of the next word.
    fn take<T>(
        &mut self,
        expected: &str,
        read: impl FnOnce(&'t str) -> Option<T>,
    ) -> Result<T, DescriptionError> {
        let word = self.words.next();
        word.and_then(read).ok_or_else(|| DescriptionError::unexpected(self.number, expected, word))
    }

    fn end(mut self) -> Result<(), DescriptionError> {
        match self.words.next() {
            None => Ok(()),
            word => Err(DescriptionError::unexpected(self.number, "the end of the line", word)),
        }
    }
}
