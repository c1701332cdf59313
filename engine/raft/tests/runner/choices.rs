//! Runs that differ: a script with a word such as `order=every` is run once for each way to go on.
//!
//! Each run records which way it took at each choice and how many there were. The next run repeats all
//! but the last that has a way left, and takes that; so a script is replayed from its start and nothing
//! has to be undone.

use crate::harness::Dice;

#[derive(Debug)]
pub(crate) struct Choices {
    /// What to choose this time, as far as it is decided.
    decided: Vec<usize>,
    /// What was chosen, and out of how many.
    taken: Vec<(usize, usize)>,
    pub(crate) dice: Dice,
    pub(crate) seed: u64,
}

impl Choices {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            decided: Vec::new(),
            taken: Vec::new(),
            dice: Dice::new(seed),
            seed,
        }
    }

    /// One of `0..of`; every run another.
    pub(crate) fn choose(&mut self, of: usize) -> usize {
        let chosen = self.decided.get(self.taken.len()).copied().unwrap_or(0);
        self.taken.push((chosen, of));
        chosen
    }

    /// What was chosen so far, to tell runs apart.
    pub(crate) fn taken(&self) -> Vec<usize> {
        self.taken.iter().map(|(chosen, _)| *chosen).collect()
    }

    /// The choices of the next run; `None` when all were made. `run` gives each run other dice.
    pub(crate) fn next(mut self, run: u64) -> Option<Self> {
        while let Some((chosen, of)) = self.taken.pop() {
            if chosen + 1 < of {
                let mut next = Self::new(self.seed);
                next.dice = Dice::new(self.seed.wrapping_add(run << 32));
                next.decided = self.taken();
                next.decided.push(chosen + 1);
                return Some(next);
            }
        }
        None
    }
}
