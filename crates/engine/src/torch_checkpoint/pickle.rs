//! The machine that a pickle is a program for (Python's `pickletools` describes it), without anything that could run code:
//! it makes plain values, and calls nothing but the few callables named here.

use super::budget::Budget;
use super::calls::{Called, GLOBALS, called};
use super::value::{Id, Value, Values};

/// A value that is remembered takes a key, its place and what a table keeps free.
const MEMO_BYTES: usize = 32;

/// Storages are numbered; no name in an archive has to be longer.
const LONGEST_KEY: usize = 255;

/// Of names that are not known so much is shown.
const LONGEST_NAME: usize = 80;

/// What the pickle leaves behind: all values, and which of them is its result.
///
/// # Errors
/// What is wrong about the bytes, which callable is not known, or that `budget` is spent.
pub fn unpickled(bytes: &[u8], budget: Budget) -> Result<(Values, Id), String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        values: Values {
            all: Vec::new(),
            budget,
        },
        stack: Vec::new(),
        marks: Vec::new(),
        memo: std::collections::HashMap::new(),
    };
    let result = machine.run()?;
    Ok((machine.values, result))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Values,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: std::collections::HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, String> {
        loop {
            let begun = self.at;
            let operation = self.byte()?;
            if operation == b'.' {
                return self.pop();
            }
            self.step(operation)
                .map_err(|problem| format!("{problem} (at byte {begun})"))?;
        }
    }

    fn step(&mut self, operation: u8) -> Result<(), String> {
        match operation {
            0x80 => self.byte().map(drop),  // PROTO
            0x95 => self.take(8).map(drop), // FRAME
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' | b'K' | b'M' | 0x8a => self.integer(operation),
            b'G' => {
                let bytes = self.array()?;
                self.push(Value::Float(f64::from_be_bytes(bytes)))
            }
            b'X' | 0x8c | 0x8d => self.text(operation),
            b'B' | b'C' | 0x8e | b'T' | b'U' => self.raw_bytes(operation),
            b'(' => {
                self.values.budget.charge(size_of::<usize>())?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => self.pop().map(drop),
            b'1' => self.since_mark().map(drop),
            b'2' => {
                let top = *self.stack.last().ok_or("nothing to double")?;
                self.push_id(top)
            }
            b')' | b't' | 0x85..=0x87 => self.tuple(operation),
            b']' | b'l' | 0x8f | b'a' | b'e' | 0x90 => self.list(operation),
            b'}' | b'd' | b's' | b'u' => self.dict(operation),
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.remembered(operation),
            b'c' | 0x93 => self.global(operation),
            b'Q' => self.persistent(),
            b'R' => self.call(),
            b'b' => self.build(),
            other => Err(format!("operation 0x{other:02x} is none that weights need")),
        }
    }

    fn integer(&mut self, operation: u8) -> Result<(), String> {
        let value = match operation {
            b'J' => i64::from(i32::from_le_bytes(self.array()?)),
            b'K' => i64::from(self.byte()?),
            b'M' => i64::from(u16::from_le_bytes(self.array()?)),
            _ => {
                let count = usize::from(self.byte()?);
                let bytes = self.take(count)?;
                if bytes.len() > 8 {
                    return Err("an integer of more than 64 bits".to_owned());
                }
                // Two's complement, the highest byte last.
                let fill = match bytes.last() {
                    Some(last) if last & 0x80 != 0 => 0xff,
                    _ => 0,
                };
                let mut wide = [fill; 8];
                wide[..bytes.len()].copy_from_slice(bytes);
                i64::from_le_bytes(wide)
            }
        };
        self.push(Value::Int(value))
    }

    /// How many bytes follow.
    fn length(&mut self, wide: u8) -> Result<usize, String> {
        let length = match wide {
            1 => u64::from(self.byte()?),
            4 => u64::from(u32::from_le_bytes(self.array()?)),
            _ => u64::from_le_bytes(self.array()?),
        };
        usize::try_from(length).map_err(|_| "a text longer than the file".to_owned())
    }

    fn text(&mut self, operation: u8) -> Result<(), String> {
        let length = self.length(match operation {
            b'X' => 4,
            0x8c => 1,
            _ => 8,
        })?;
        let bytes = self.take(length)?;
        self.values.budget.charge(length)?;
        let text = String::from_utf8_lossy(bytes).into_owned();
        // Bytes that are no text become longer ones.
        self.values
            .budget
            .charge(text.len().saturating_sub(length))?;
        self.push(Value::Text(text))
    }

    fn raw_bytes(&mut self, operation: u8) -> Result<(), String> {
        let length = self.length(match operation {
            b'B' | b'T' => 4,
            b'C' | b'U' => 1,
            _ => 8,
        })?;
        let bytes = self.take(length)?;
        self.values.budget.charge(length)?;
        self.push(Value::Bytes(bytes.to_vec()))
    }

    fn tuple(&mut self, operation: u8) -> Result<(), String> {
        let items = match operation {
            b')' => Vec::new(),
            b't' => self.since_mark()?,
            _ => {
                let count = usize::from(operation - 0x84);
                let from = self.stack.len().checked_sub(count);
                self.stack
                    .split_off(from.ok_or("a tuple of more than there is")?)
            }
        };
        self.push(Value::Tuple(items))
    }

    fn list(&mut self, operation: u8) -> Result<(), String> {
        let added = match operation {
            b']' | 0x8f => return self.push(Value::List(Vec::new())),
            b'l' => {
                let items = self.since_mark()?;
                return self.push(Value::List(items));
            }
            b'a' => vec![self.pop()?],
            _ => self.since_mark()?,
        };
        match self.top_mut()? {
            Value::List(items) => {
                items.extend(added);
                Ok(())
            }
            _ => Err("items for what is no list".to_owned()),
        }
    }

    fn dict(&mut self, operation: u8) -> Result<(), String> {
        let added = match operation {
            b'}' => return self.push(Value::Dict(Vec::new())),
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.since_mark()?,
        };
        if !added.len().is_multiple_of(2) {
            return Err("a key without a value".to_owned());
        }
        let entries = added.chunks_exact(2).map(|pair| (pair[0], pair[1]));
        if operation == b'd' {
            return self.push(Value::Dict(entries.collect()));
        }
        match self.top_mut()? {
            Value::Dict(known) => {
                known.extend(entries);
                Ok(())
            }
            _ => Err("entries for what is no dictionary".to_owned()),
        }
    }

    fn remembered(&mut self, operation: u8) -> Result<(), String> {
        let key = match operation {
            b'q' | b'h' => u64::from(self.byte()?),
            b'r' | b'j' => u64::from(u32::from_le_bytes(self.array()?)),
            _ => self.memo.len() as u64,
        };
        if matches!(operation, b'h' | b'j') {
            let id = *self.memo.get(&key).ok_or("refers to what was never made")?;
            return self.push_id(id);
        }
        let top = *self.stack.last().ok_or("nothing to remember")?;
        self.values.budget.charge(MEMO_BYTES)?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn global(&mut self, operation: u8) -> Result<(), String> {
        let (module, name) = match operation {
            b'c' => (self.line()?, self.line()?),
            _ => {
                let name = self.pop_text()?;
                (self.pop_text()?, name)
            }
        };
        let asked = format!("{module} {name}");
        let known = GLOBALS.iter().find(|known| **known == asked);
        let known = known.ok_or_else(|| {
            let shown: String = format!("{module}.{name}")
                .chars()
                .take(LONGEST_NAME)
                .collect();
            format!(
                "it wants to use {}, which weights do not need",
                shown.escape_debug()
            )
        })?;
        self.push(Value::Global(known))
    }

    /// A storage: ('storage', its kind, its name, where it was, how many elements).
    fn persistent(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let Value::Tuple(items) = self.values.get(id) else {
            return Err("a reference that is no storage".to_owned());
        };
        let [_, kind, key, _, length] = items[..] else {
            return Err("a reference that is no storage".to_owned());
        };
        let of = |id| self.values.get(id);
        let storage = match (of(kind), of(key), of(length)) {
            (Value::Global(_), Value::Text(name), _) if name.len() > LONGEST_KEY => {
                return Err(format!("a storage with a name of {} bytes", name.len()));
            }
            (Value::Global(kind), Value::Text(_), Value::Int(length)) if *length >= 0 => {
                Value::Storage {
                    kind,
                    key,
                    length: *length as u64,
                }
            }
            _ => return Err("a reference that is no storage".to_owned()),
        };
        self.push(storage)
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = self.values.get(arguments) else {
            return Err("a call without arguments".to_owned());
        };
        let Value::Global(name) = self.values.get(callable) else {
            return Err("a call of what is no callable".to_owned());
        };
        match called(name, arguments, &self.values)? {
            Called::New(value) => self.push(value),
            Called::Given(id) => self.push_id(id),
        }
    }

    /// Attributes of an object: an ordered dictionary's (its `_metadata`) and a NumPy type's (its byte order) matter
    /// little here; nothing else has any.
    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        let big_endian = match self.values.get(state) {
            Value::Tuple(items) => items
                .get(1)
                .is_some_and(|id| self.values.node(*id).text() == Some(">")),
            _ => false,
        };
        match self.top_mut()? {
            Value::Dict(_) => Ok(()),
            Value::NumpyType(_) if !big_endian => Ok(()),
            Value::NumpyType(_) => Err("numbers with their highest byte first".to_owned()),
            _ => Err("attributes for what has none".to_owned()),
        }
    }

    /// A new value; what it holds has been charged.
    fn push(&mut self, value: Value) -> Result<(), String> {
        self.values.budget.charge(size_of::<Value>())?;
        self.values.all.push(value);
        self.push_id(self.values.all.len() - 1)
    }

    /// Lists, tuples and dictionaries take their places from the stack: each is charged here, once.
    fn push_id(&mut self, id: Id) -> Result<(), String> {
        self.values.budget.charge(size_of::<Id>())?;
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let bottom = self.marks.last().copied().unwrap_or(0);
        let popped = (self.stack.len() > bottom)
            .then(|| self.stack.pop())
            .flatten();
        popped.ok_or_else(|| "takes what is not there".to_owned())
    }

    fn pop_text(&mut self) -> Result<String, String> {
        let id = self.pop()?;
        let text = self.values.node(id).text();
        Ok(text.ok_or("a name that is no text")?.to_owned())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("a mark that is not there")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn top_mut(&mut self) -> Result<&mut Value, String> {
        let top = *self.stack.last().ok_or("takes what is not there")?;
        self.values
            .all
            .get_mut(top)
            .ok_or_else(|| "takes what is not there".to_owned())
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| "ends early".to_owned())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or("ends early")?;
        self.at += count;
        Ok(taken)
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let length = rest
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or("ends early")?;
        let line = String::from_utf8_lossy(&rest[..length]).into_owned();
        self.at += length + 1;
        Ok(line)
    }
}
