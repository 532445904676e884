//! Places for values: one arena for the temporaries, shared by values that do not live at the
//! same time; outputs in memory of their own, or in that of a leaf that nobody else holds.

use super::about::About;
use super::graph::{Entry, Graph};
use super::lower::{Lower, Lowered, Size, ValueId};
use super::{Place, Plan, Step, Store};
use crate::engine::{Kernel, KernelSpec};
use std::collections::{HashMap, HashSet};

/// Every place begins at a multiple of a cache line.
const ALIGN: usize = 64;

/// A value's first write and last use, as kernel indices.
#[derive(Clone, Copy)]
struct Life {
    first: usize,
    last: usize,
}

pub(super) fn place(
    graph: &Graph,
    lowered: Lowered,
    compile: impl Fn(KernelSpec) -> Box<dyn Kernel>,
) -> Plan {
    let Lowered {
        kernels,
        sizes,
        outputs,
    } = lowered;
    let mut lives: HashMap<ValueId, Life> = HashMap::new();
    for (s, k) in kernels.iter().enumerate() {
        for &v in k.reads.iter().chain(&k.writes) {
            lives.entry(v).or_insert(Life { first: s, last: s }).last = s;
        }
    }
    let mut placer = Placer {
        last_check: last_check(&kernels),
        graph,
        sizes: &sizes,
        lives: &lives,
        kept: outputs.iter().map(|&(_, base, _)| base).collect(),
        places: HashMap::new(),
        gone: HashSet::new(),
        holders: HashMap::new(),
        stores: Vec::new(),
        arena: Arena::default(),
    };
    // No kernel writes an empty value, but a later one (a concatenation, say) may be given it.
    let written: HashSet<ValueId> = kernels
        .iter()
        .flat_map(|k| k.writes.iter().copied())
        .collect();
    for &v in kernels.iter().flat_map(|k| &k.reads) {
        if !written.contains(&v) && !placer.is_leaf(v) {
            placer.place_empty(v);
        }
    }
    let mut steps = Vec::with_capacity(kernels.len());
    for (s, kernel) in kernels.into_iter().enumerate() {
        placer.place_writes(s, &kernel);
        let place = |v: &ValueId| placer.place_of(*v);
        let needless = kernel.is_copy && placer.same_memory(kernel.reads[0], kernel.writes[0]);
        if !needless {
            let args = kernel
                .reads
                .iter()
                .chain(&kernel.writes)
                .map(place)
                .collect();
            steps.push(Step {
                about: About::new(&kernel.spec),
                kernel: compile(kernel.spec),
                args,
                slots: kernel.slots,
            });
        }
        placer.release(s, kernel.reads.iter().chain(&kernel.writes));
    }
    // Who reads a leaf may rely on it to stay.
    let taken = placer.stores.iter().zip(0..);
    let taken: HashMap<u32, u32> = taken
        .filter_map(|(store, i)| match store {
            Store::TakeOver(leaf) => Some((*leaf, i)),
            Store::New(_) => None,
        })
        .collect();
    for place in steps.iter_mut().flat_map(|step: &mut Step| &mut step.args) {
        if let Place::Leaf(leaf) = place
            && let Some(&i) = taken.get(leaf)
        {
            *place = Place::Store(i);
        }
    }
    // Outputs that no kernel writes are empty.
    for &(_, base, _) in &outputs {
        if !placer.is_leaf(base) {
            placer.place_empty(base);
        }
    }
    let outputs = outputs
        .into_iter()
        .map(|(n, base, layout)| (n, placer.place_of(base), layout))
        .collect();
    Plan {
        steps,
        arena: placer.arena.size,
        stores: placer.stores,
        outputs,
    }
}

/// The last kernel that may fail: one that checks indices which no kernel before it has checked.
fn last_check(kernels: &[Lower]) -> Option<usize> {
    let mut seen = Vec::new();
    let mut last = None;
    for (s, kernel) in kernels.iter().enumerate() {
        if let Some(check) = kernel.spec.checks() {
            let check = (kernel.reads[check.operand], check);
            if !seen.contains(&check) {
                seen.push(check);
                last = Some(s);
            }
        }
    }
    last
}

struct Placer<'a> {
    /// Up to here an error may end the run, and must find every leaf unharmed.
    last_check: Option<usize>,
    graph: &'a Graph,
    sizes: &'a HashMap<ValueId, Size>,
    lives: &'a HashMap<ValueId, Life>,
    /// Values that outlive the run.
    kept: HashSet<ValueId>,
    places: HashMap<ValueId, Place>,
    /// Values that no longer hold their memory: released, or taken over by another value.
    gone: HashSet<ValueId>,
    /// How many values lie at each used offset of the arena.
    holders: HashMap<usize, u32>,
    stores: Vec<Store>,
    arena: Arena,
}

impl Placer<'_> {
    fn is_leaf(&self, v: ValueId) -> bool {
        self.graph.nodes.get(v as usize).is_some_and(Entry::is_leaf)
    }

    fn place_of(&self, v: ValueId) -> Place {
        if let Some(place) = self.places.get(&v) {
            return *place;
        }
        debug_assert!(self.is_leaf(v), "value {v} is read before it is written");
        Place::Leaf(v)
    }

    /// Whether two values lie in the same place.
    fn same_memory(&self, v: ValueId, w: ValueId) -> bool {
        let place = |v| match self.place_of(v) {
            Place::Store(i) => match self.stores[i as usize] {
                Store::TakeOver(leaf) => Place::Leaf(leaf),
                Store::New(_) => Place::Store(i),
            },
            other => other,
        };
        place(v) == place(w)
    }

    /// Gives an empty place to a value that has none.
    fn place_empty(&mut self, v: ValueId) {
        self.places.entry(v).or_insert_with(|| {
            self.stores.push(Store::New(0));
            Place::Store(self.stores.len() as u32 - 1)
        });
    }

    /// Gives memory to everything that kernel `s` is the first to write.
    fn place_writes(&mut self, s: usize, k: &Lower) {
        // The anchor's raw result last: it may share memory with what the epilogue makes of it.
        for (w, &v) in k.writes.iter().enumerate().rev() {
            if self.lives[&v].first != s || self.places.contains_key(&v) {
                continue;
            }
            let size = self.sizes[&v];
            // An anchor writes its raw result before the epilogue has read its inputs.
            let raw = w == 0 && !matches!(k.spec, KernelSpec::Map(_) | KernelSpec::Copy { .. });
            let shared = match raw {
                true => self.share_with_epilogue(s, k, v, size),
                false => self.take_over(s, k, v, size),
            };
            let place = shared.unwrap_or_else(|| {
                if self.kept.contains(&v) {
                    self.stores.push(Store::New(size.bytes()));
                    Place::Store(self.stores.len() as u32 - 1)
                } else {
                    let at = self.arena.alloc(size.bytes());
                    self.holders.insert(at, 1);
                    Place::Arena(at)
                }
            });
            self.places.insert(v, place);
        }
    }

    /// The memory of a value that is read in step for the last time here. Elements must be of one
    /// size, or writing one would overwrite others that are still to be read.
    fn take_over(&mut self, s: usize, k: &Lower, v: ValueId, size: Size) -> Option<Place> {
        let kept = self.kept.contains(&v);
        for (j, &r) in k.reads.iter().enumerate() {
            let here = k
                .reads
                .iter()
                .zip(&k.in_step)
                .all(|(&q, &in_step)| q != r || in_step);
            let last = self.lives[&r].last == s && !self.gone.contains(&r);
            // An output may be a view of what is read.
            if !k.in_step[j] || !here || !last || self.kept.contains(&r) {
                continue;
            }
            let place = if self.is_leaf(r) {
                let e = &self.graph.nodes[r as usize];
                let expendable = self.graph.leaf(r as usize).is_some_and(|l| l.expendable);
                let safe = self.last_check.is_none_or(|last| s > last);
                let fits = Size::of(e.shape(), e.dtype()) == size;
                if !kept || !expendable || !safe || !fits {
                    continue;
                }
                self.stores.push(Store::TakeOver(r));
                Place::Store(self.stores.len() as u32 - 1)
            } else {
                if kept || self.sizes[&r] != size {
                    continue;
                }
                self.places[&r]
            };
            self.gone.insert(r);
            return Some(place);
        }
        None
    }

    /// A raw result that only the epilogue reads may lie where the epilogue writes, if that is
    /// new memory of the same size.
    fn share_with_epilogue(
        &mut self,
        s: usize,
        k: &Lower,
        v: ValueId,
        size: Size,
    ) -> Option<Place> {
        let life = self.lives[&v];
        if self.kept.contains(&v) || life.last != s || k.writes.len() < 2 {
            return None;
        }
        let place = k.writes[1..].iter().find_map(|w| {
            let place = self.places[w];
            let fresh = match place {
                Place::Store(i) => matches!(self.stores[i as usize], Store::New(_)),
                Place::Arena(_) => !k.reads.iter().any(|r| self.places.get(r) == Some(&place)),
                Place::Leaf(_) => false,
            };
            (fresh && self.sizes[w].bytes() == size.bytes() && self.lives[w].first == s)
                .then_some(place)
        })?;
        if let Place::Arena(at) = place {
            *self
                .holders
                .get_mut(&at)
                .expect("a placed value has holders") += 1;
        }
        Some(place)
    }

    fn release<'v>(&mut self, s: usize, values: impl Iterator<Item = &'v ValueId>) {
        for &v in values {
            if self.lives[&v].last != s || !self.gone.insert(v) {
                continue;
            }
            if let Some(&Place::Arena(at)) = self.places.get(&v) {
                let holders = self
                    .holders
                    .get_mut(&at)
                    .expect("a placed value has holders");
                *holders -= 1;
                if *holders == 0 {
                    self.arena.free(at, self.sizes[&v].bytes());
                }
            }
        }
    }
}

fn round(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(ALIGN)
}

/// Best-fit placement of lives in one growing range.
#[derive(Default)]
struct Arena {
    size: usize,
    /// Free stretches `(start, length)`, by start.
    holes: Vec<(usize, usize)>,
}

impl Arena {
    fn alloc(&mut self, bytes: usize) -> usize {
        let need = round(bytes);
        let fit = (0..self.holes.len())
            .filter(|&i| self.holes[i].1 >= need)
            .min_by_key(|&i| self.holes[i].1);
        if let Some(i) = fit {
            let (start, len) = self.holes[i];
            if len == need {
                self.holes.remove(i);
            } else {
                self.holes[i] = (start + need, len - need);
            }
            return start;
        }
        // Grow, starting in the last hole if it touches the end.
        let start = match self.holes.last() {
            Some(&(start, len)) if start + len == self.size => {
                self.holes.pop();
                start
            }
            _ => self.size,
        };
        self.size = start + need;
        start
    }

    fn free(&mut self, start: usize, bytes: usize) {
        let at = self.holes.partition_point(|&(s, _)| s < start);
        self.holes.insert(at, (start, round(bytes)));
        for i in [at + 1, at] {
            if i > 0 && i < self.holes.len() {
                let (s, l) = self.holes[i - 1];
                if s + l == self.holes[i].0 {
                    self.holes[i - 1].1 += self.holes[i].1;
                    self.holes.remove(i);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Live stretches never overlap, and everything freed leaves one hole.
        #[test]
        fn arena_never_overlaps(ops in prop::collection::vec((any::<bool>(), 1usize..5000), 1..200)) {
            let mut arena = Arena::default();
            let mut live: Vec<(usize, usize)> = Vec::new();
            for (alloc, n) in ops {
                if alloc || live.is_empty() {
                    let at = arena.alloc(n);
                    for &(s, l) in &live {
                        prop_assert!(at + round(n) <= s || s + round(l) <= at);
                    }
                    prop_assert!(at + round(n) <= arena.size && at % ALIGN == 0);
                    live.push((at, n));
                } else {
                    let (s, l) = live.swap_remove(n % live.len());
                    arena.free(s, l);
                }
            }
            for (s, l) in live.drain(..) {
                arena.free(s, l);
            }
            prop_assert_eq!(arena.holes, vec![(0, arena.size)]);
        }
    }
}
