//! Interpreter of the pickle virtual machine (see Python's `pickletools`). It cannot run code: it creates plain
//! values and calls only the few allowed callables.

use super::budget::Budget;
use super::calls::{Called, GLOBALS, call_known};
use super::value::{Id, Value, Values};

/// Bytes of a memo entry: key, id and table overhead.
const MEMO_BYTES: usize = 32;

/// Maximum length of a storage's name; PyTorch numbers them.
const MAX_KEY_BYTES: usize = 255;

/// Maximum length of an unknown name in a message.
const MAX_NAME_BYTES: usize = 80;

/// Interprets a pickle and returns its values and the id of the result.
///
/// # Errors
/// Invalid bytes, a callable that is not allowed, or an exhausted `budget`.
pub fn unpickle(bytes: &[u8], budget: Budget) -> Result<(Values, Id), String> {
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
            let start = self.at;
            let operation = self.byte()?;
            if operation == b'.' {
                return self.pop();
            }
            self.step(operation)
                .map_err(|problem| format!("{problem} (at byte {start})"))?;
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
                let top = *self.stack.last().ok_or("the stack is empty")?;
                self.push_id(top)
            }
            b')' | b't' | 0x85..=0x87 => self.tuple(operation),
            b']' | b'l' | 0x8f | b'a' | b'e' | 0x90 => self.list(operation),
            b'}' | b'd' | b's' | b'u' => self.dict(operation),
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memoise(operation),
            b'c' | 0x93 => self.global(operation),
            b'Q' => self.persistent(),
            b'R' => self.call(),
            b'b' => self.build(),
            other => Err(format!("operation 0x{other:02x} is not allowed")),
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
                // Two's complement, little-endian.
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

    /// Reads a length.
    fn length(&mut self, wide: u8) -> Result<usize, String> {
        let length = match wide {
            1 => u64::from(self.byte()?),
            4 => u64::from(u32::from_le_bytes(self.array()?)),
            _ => u64::from_le_bytes(self.array()?),
        };
        usize::try_from(length).map_err(|_| "a string longer than the file".to_owned())
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
        // Invalid UTF-8 becomes longer when replaced.
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
                    .split_off(from.ok_or("a tuple with more items than the stack")?)
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
            _ => Err("items for something that is not a list".to_owned()),
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
            _ => Err("entries for something that is not a dictionary".to_owned()),
        }
    }

    fn memoise(&mut self, operation: u8) -> Result<(), String> {
        let key = match operation {
            b'q' | b'h' => u64::from(self.byte()?),
            b'r' | b'j' => u64::from(u32::from_le_bytes(self.array()?)),
            _ => self.memo.len() as u64,
        };
        if matches!(operation, b'h' | b'j') {
            let id = *self
                .memo
                .get(&key)
                .ok_or("a reference to an unknown memo entry")?;
            return self.push_id(id);
        }
        let top = *self.stack.last().ok_or("the stack is empty")?;
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
        let full_name = format!("{module} {name}");
        let known = GLOBALS.iter().find(|known| **known == full_name);
        let known = known.ok_or_else(|| {
            let shown: String = format!("{module}.{name}")
                .chars()
                .take(MAX_NAME_BYTES)
                .collect();
            format!("it uses {}, which is not allowed", shown.escape_debug())
        })?;
        self.push(Value::Global(known))
    }

    /// A storage: ('storage', kind, name, location, number of elements).
    fn persistent(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let Value::Tuple(items) = self.values.get(id) else {
            return Err("a reference that is not a storage".to_owned());
        };
        let [_, kind, key, _, length] = items[..] else {
            return Err("a reference that is not a storage".to_owned());
        };
        let of = |id| self.values.get(id);
        let storage = match (of(kind), of(key), of(length)) {
            (Value::Global(_), Value::Text(name), _) if name.len() > MAX_KEY_BYTES => {
                return Err(format!("a storage with a name of {} bytes", name.len()));
            }
            (Value::Global(kind), Value::Text(_), Value::Int(length)) if *length >= 0 => {
                Value::Storage {
                    kind,
                    key,
                    length: *length as u64,
                }
            }
            _ => return Err("a reference that is not a storage".to_owned()),
        };
        self.push(storage)
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = self.values.get(arguments) else {
            return Err("a call without arguments".to_owned());
        };
        let Value::Global(name) = self.values.get(callable) else {
            return Err("a call of something that is not callable".to_owned());
        };
        match call_known(name, arguments, &self.values)? {
            Called::New(value) => self.push(value),
            Called::Argument(id) => self.push_id(id),
        }
    }

    /// Sets attributes. Those of an ordered dictionary (`_metadata`) are ignored, those of a NumPy type are checked
    /// for byte order; nothing else may have any.
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
            Value::NumpyType(_) => Err("big-endian numbers".to_owned()),
            _ => Err("attributes for something that has none".to_owned()),
        }
    }

    /// Adds a value, whose contents are already charged.
    fn push(&mut self, value: Value) -> Result<(), String> {
        self.values.budget.charge(size_of::<Value>())?;
        self.values.all.push(value);
        self.push_id(self.values.all.len() - 1)
    }

    /// Charges one stack slot; lists, tuples and dictionaries take their items from the stack.
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
        popped.ok_or_else(|| "the stack is empty".to_owned())
    }

    fn pop_text(&mut self) -> Result<String, String> {
        let id = self.pop()?;
        let text = self.values.node(id).text();
        Ok(text.ok_or("a name that is not text")?.to_owned())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("a missing mark")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn top_mut(&mut self) -> Result<&mut Value, String> {
        let top = *self.stack.last().ok_or("the stack is empty")?;
        self.values
            .all
            .get_mut(top)
            .ok_or_else(|| "an invalid reference".to_owned())
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
