//! Reads a cron expression into its field sets, and says where it cannot.

use super::fields::{Days, Fields, Set};

/// What is wrong, and at which character of the expression, counted from 1.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) column: usize,
    pub(super) reason: String,
}

/// An expression that was understood.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) fields: Fields,
    /// No `*` in the seconds, the minute or the hour.
    pub(super) fixed: bool,
}

struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    /// A longer one would silently be no step at all.
    longest_step: u32,
    names: &'static [&'static str],
    usage: &'static str,
}

const SECONDS: Field = Field {
    name: "seconds",
    min: 0,
    max: 59,
    longest_step: 60,
    names: &[],
    usage: "0 to 59",
};
const MINUTE: Field = Field {
    name: "minute",
    ..SECONDS
};
const HOUR: Field = Field {
    name: "hour",
    min: 0,
    max: 23,
    longest_step: 24,
    names: &[],
    usage: "0 to 23",
};
const DAY_OF_MONTH: Field = Field {
    name: "day of month",
    min: 1,
    max: 31,
    longest_step: 31,
    names: &[],
    usage: "1 to 31, L, LW or 15W",
};
const MONTH: Field = Field {
    name: "month",
    min: 1,
    max: 12,
    longest_step: 12,
    names: &[
        "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
    ],
    usage: "1 to 12 or JAN to DEC",
};
/// 7 is Sunday, as 0 is.
const DAY_OF_WEEK: Field = Field {
    name: "day of week",
    min: 0,
    max: 7,
    longest_step: 7,
    names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
    usage: "0 to 7, SUN to SAT, FRI#2 or FRI#L",
};

const ALIASES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

pub(super) fn parse(expression: &str) -> Result<Parsed, Fault> {
    let characters: Vec<char> = expression.chars().collect();
    let mut words = words(&characters);
    if let Some(alias) = words.first().filter(|word| word.text.starts_with(&['@'])) {
        let five = alias.expand()?;
        return match words.get(1) {
            None => parse(five),
            Some(extra) => Err(extra.fault("nothing may follow an alias; remove it")),
        };
    }

    let count = words.len();
    if count == 5 {
        words.insert(
            0,
            Word {
                text: &['0'],
                column: 0,
            },
        );
    }
    let too_few = words.last().map_or(1, |word| word.column + word.text.len());
    let column = words.get(6).map_or(too_few, |extra| extra.column);
    let Ok([seconds, minute, hour, day_of_month, month, day_of_week]) =
        <[Word<'_>; 6]>::try_from(words)
    else {
        let reason = format!(
            "found {}, expected 5 (minute, hour, day of month, month, day of week) or 6 \
             (seconds first; no year)",
            if count == 1 {
                "1 field".to_owned()
            } else {
                format!("{count} fields")
            },
        );
        return Err(Fault { column, reason });
    };

    let fixed = ![seconds, minute, hour]
        .iter()
        .any(|word| word.text.contains(&'*'));
    let seconds = seconds.read(&SECONDS)?.values;
    let minutes = minute.read(&MINUTE)?.values;
    let hours = hour.read(&HOUR)?.values;
    let of_month = day_of_month.read(&DAY_OF_MONTH)?;
    let months = month.read(&MONTH)?.values;
    let of_week = day_of_week.read(&DAY_OF_WEEK)?;
    let days = Days {
        of_month: of_month.values,
        last: of_month.last,
        nearest_weekday: of_month.nearest_weekday,
        last_weekday: of_month.last_weekday,
        of_week: of_week.values,
        nth_of_week: of_week.nth_of_week,
        last_of_week: of_week.last_of_week,
        either: day_of_month.is_restricted() && day_of_week.is_restricted(),
    };
    let fields = Fields {
        seconds,
        minutes,
        hours,
        days,
        months,
    };
    // Any start will do: the search covers the whole cycle of the calendar.
    if fields.at_or_after(0).is_none() {
        let reason = "never fires: the calendar has no such date; change the day or the month";
        return Err(day_of_month.fault(format!("day of month: {reason}")));
    }
    Ok(Parsed { fields, fixed })
}

fn words(characters: &[char]) -> Vec<Word<'_>> {
    let mut column = 1;
    let mut words = Vec::new();
    for text in characters.split(|character| character.is_whitespace()) {
        if !text.is_empty() {
            words.push(Word { text, column });
        }
        column += text.len() + 1;
    }
    words
}

/// What the expression has between spaces.
#[derive(Debug, Clone, Copy)]
struct Word<'a> {
    text: &'a [char],
    /// Of its first character.
    column: usize,
}

impl Word<'_> {
    fn fault(&self, reason: impl Into<String>) -> Fault {
        Fault {
            column: self.column,
            reason: reason.into(),
        }
    }

    /// The five fields that `@daily` and its kin stand for.
    fn expand(&self) -> Result<&'static str, Fault> {
        let name: String = self.text.iter().collect::<String>().to_lowercase();
        match ALIASES.iter().find(|(alias, _)| *alias == name) {
            Some((_, five)) => Ok(five),
            None => {
                let known: Vec<&str> = ALIASES.iter().map(|(alias, _)| *alias).collect();
                Err(self.fault(format!("unknown alias {name}; use {}", known.join(", "))))
            }
        }
    }

    /// Vixie cron's rule: whatever begins with `*`, `*/2` too, restricts nothing
    /// as far as the choice between "and" and "or" is concerned.
    fn is_restricted(&self) -> bool {
        !self.text.starts_with(&['*']) && !self.text.starts_with(&['?'])
    }

    fn read(&self, field: &'static Field) -> Result<Allowed, Fault> {
        let mut allowed = Allowed::default();
        let mut reader = Reader {
            field,
            word: *self,
            at: 0,
        };
        loop {
            reader.item(&mut allowed)?;
            if reader.at == self.text.len() {
                return Ok(allowed);
            }
            if !reader.take(',') {
                return Err(reader.unexpected(field.usage));
            }
        }
    }
}

/// What a field allows; `values` of all fields, the rest of the days' alone.
#[derive(Default)]
struct Allowed {
    values: Set,
    last: bool,
    last_weekday: bool,
    nearest_weekday: Set,
    nth_of_week: [Set; 5],
    last_of_week: Set,
}

struct Reader<'a> {
    field: &'static Field,
    word: Word<'a>,
    at: usize,
}

impl Reader<'_> {
    /// One of the items that commas separate.
    fn item(&mut self, allowed: &mut Allowed) -> Result<(), Fault> {
        let of_month = self.field.name == DAY_OF_MONTH.name;
        let of_week = self.field.name == DAY_OF_WEEK.name;
        if self.take('*') {
            let step = self.step()?;
            allowed
                .values
                .insert_every(step, self.field.min..=self.field.max);
        } else if (of_month || of_week) && self.take('?') {
            allowed
                .values
                .insert_every(1, self.field.min..=self.field.max);
        } else if of_month && self.take('L') {
            match self.take('W') {
                true => allowed.last_weekday = true,
                false => allowed.last = true,
            }
        } else {
            let low = self.value()?;
            if of_month && self.take('W') {
                allowed.nearest_weekday.insert(low);
                return Ok(());
            }
            let high = match self.peek() {
                Some('-') => self.range_end(low)?,
                // Up to Saturday: a week does not have two Sundays.
                Some('/') if of_week => low.max(6),
                Some('/') => self.field.max,
                _ => low,
            };
            let step = self.step()?;
            let set = if of_week && self.take('#') {
                match self.take('L') {
                    true => &mut allowed.last_of_week,
                    false => &mut allowed.nth_of_week[self.nth()?],
                }
            } else if of_week && self.take('L') {
                &mut allowed.last_of_week
            } else {
                &mut allowed.values
            };
            set.insert_every(step, low..=high);
        }
        Ok(())
    }

    /// A number or a name.
    fn value(&mut self) -> Result<u32, Fault> {
        let Field {
            min,
            max,
            names,
            usage,
            ..
        } = *self.field;
        let begin = self.at;
        let letters = self.run(|character| character.is_ascii_alphabetic());
        if letters.is_empty() {
            return self.number(min, max, usage);
        }
        let letters = letters.to_uppercase();
        // The L of `FRIL` belongs to the day, not to its name.
        let name = match letters.strip_suffix('L') {
            Some(name) if self.field.name == DAY_OF_WEEK.name && name.len() == 3 => name,
            _ => &letters,
        };
        self.at = begin + name.len();
        match (min..).zip(names).find(|(_, known)| **known == name) {
            Some((value, _)) => Ok(value),
            None if names.is_empty() && letters.len() == 1 => {
                self.at = begin;
                Err(self.unexpected(usage))
            }
            None => Err(self.fault_at(begin, format!("unknown name {letters}; use {usage}"))),
        }
    }

    fn range_end(&mut self, low: u32) -> Result<u32, Fault> {
        self.at += 1;
        let begin = self.at;
        let named = self
            .peek()
            .is_some_and(|character| character.is_ascii_alphabetic());
        let mut high = self.value()?;
        if self.field.name == DAY_OF_WEEK.name && named && high == 0 && low > 0 {
            high = 7;
        }
        if low > high {
            let Field { min, max, .. } = *self.field;
            let reason = format!(
                "the range {low}-{high} runs backwards; swap its ends, or write \
                 {low}-{max},{min}-{high} if it is to wrap around"
            );
            return Err(self.fault_at(begin, reason));
        }
        Ok(high)
    }

    /// 1 where there is none.
    fn step(&mut self) -> Result<u32, Fault> {
        if !self.take('/') {
            return Ok(1);
        }
        let longest = self.field.longest_step;
        self.number(1, longest, &format!("a step of 1 to {longest}"))
    }

    /// The index of an occurrence of a weekday in its month.
    fn nth(&mut self) -> Result<usize, Fault> {
        let nth = self.number(1, 5, "1 to 5, or L for the last, after #")?;
        Ok(nth as usize - 1)
    }

    fn number(&mut self, min: u32, max: u32, usage: &str) -> Result<u32, Fault> {
        let begin = self.at;
        let digits = self.run(|character| character.is_ascii_digit());
        match digits.parse() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ if digits.is_empty() => Err(self.unexpected(usage)),
            _ => Err(self.fault_at(begin, format!("{digits} is out of range; use {usage}"))),
        }
    }

    fn peek(&self) -> Option<char> {
        self.word.text.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self
            .peek()
            .is_some_and(|character| character.eq_ignore_ascii_case(&wanted));
        self.at += usize::from(found);
        found
    }

    fn run(&mut self, belongs: impl Fn(&char) -> bool) -> String {
        let run: String = self.word.text[self.at..]
            .iter()
            .copied()
            .take_while(belongs)
            .collect();
        self.at += run.len();
        run
    }

    fn unexpected(&self, usage: &str) -> Fault {
        let reason = match self.peek() {
            None => format!("a value is missing; use {usage}"),
            Some(character) => format!("{character:?} is not allowed here; use {usage}"),
        };
        self.fault_at(self.at, reason)
    }

    fn fault_at(&self, at: usize, reason: String) -> Fault {
        Fault {
            column: self.word.column + at,
            reason: format!("{}: {reason}", self.field.name),
        }
    }
}
