//! Planning: a graph becomes a list of kernels with places for their operands, once; the plan is
//! kept under the graph's structural hash and used again whenever the same structure comes back.

mod about;
mod graph;
mod lower;
mod memory;

pub(crate) use graph::Graph;

use crate::engine::{Kernel, engine};
use crate::shape::Layout;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

/// Switches for tests and for hunting mistakes, read once from the environment.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// `FORNAX_FUSION=0`: every op its own kernel.
    pub fusion: bool,
    /// `FORNAX_FAST=0`: fused ops run by their definitions.
    pub fast: bool,
}

thread_local! {
    static OVERRIDE: std::cell::Cell<Option<Options>> = const { std::cell::Cell::new(None) };
    static MADE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// How many plans this thread's evaluations had to make so far, because no plan of the same
/// structure was there. It stands still while a loop repeats itself.
pub fn plans_made() -> u64 {
    MADE.get()
}

/// The switches in force on this thread.
pub fn options() -> Options {
    static FROM_ENV: LazyLock<Options> = LazyLock::new(|| {
        let on = |name: &str| std::env::var(name).as_deref() != Ok("0");
        Options {
            fusion: on("FORNAX_FUSION"),
            fast: on("FORNAX_FAST"),
        }
    });
    OVERRIDE.get().unwrap_or(*FROM_ENV)
}

/// Runs `f` with other switches on this thread.
pub fn with_options<R>(options: Options, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Options>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OVERRIDE.set(self.0);
        }
    }
    let _restore = Restore(OVERRIDE.replace(Some(options)));
    f()
}

/// Kernels in order, and where their operands lie.
pub(crate) struct Plan {
    pub steps: Vec<Step>,
    /// Bytes of temporary memory.
    pub arena: usize,
    /// Memory that outlives the run, in bytes, or the leaf whose memory is taken over.
    pub stores: Vec<Store>,
    /// Nodes to give a value: node, where it lies, and its layout there.
    pub outputs: Vec<(u32, Place, Layout)>,
}

/// One kernel and its operands.
pub(crate) struct Step {
    pub kernel: Box<dyn Kernel>,
    /// For traces.
    pub about: about::About,
    pub args: SmallVec<[Place; 6]>,
    pub slots: lower::SlotList,
}

/// Memory for an output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Store {
    /// Allocated for the run.
    New(usize),
    /// The memory of a leaf (a node's index), which nobody else holds.
    TakeOver(u32),
}

/// Where an operand begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    /// The value of a leaf (a node's index). The operands of steps are [`Place::Store`] instead if the
    /// plan takes its memory over.
    Leaf(u32),
    /// Byte offset in the temporary memory.
    Arena(usize),
    /// An entry of [`Plan::stores`].
    Store(u32),
}

/// Kernels that cached plans have together (some 2 KiB each); beyond this many the least recently
/// used half of the plans goes.
const CACHE_CAP: usize = 1 << 16;

/// A graph's hash and number of nodes.
type PlanKey = (u128, usize);

#[derive(Default)]
struct Cache {
    plans: HashMap<PlanKey, (u64, Arc<Plan>)>,
    steps: usize,
    clock: u64,
}

impl Cache {
    fn insert(&mut self, key: PlanKey, plan: Arc<Plan>) {
        self.steps += plan.steps.len() + 1;
        self.plans.insert(key, (self.clock, plan));
        if self.steps > CACHE_CAP {
            let mut ages: Vec<u64> = self.plans.values().map(|(used, _)| *used).collect();
            ages.sort_unstable();
            let median = ages[ages.len() / 2];
            self.plans.retain(|_, (used, _)| *used > median);
            let kept = self.plans.values().map(|(_, plan)| plan.steps.len() + 1);
            self.steps = kept.sum();
        }
    }
}

static CACHE: LazyLock<Mutex<Cache>> = LazyLock::new(Mutex::default);

/// The plan for a graph: from the cache, or made now.
pub(crate) fn plan_for(graph: &Graph) -> Arc<Plan> {
    let options = options();
    let hash = graph.hash ^ ((options.fusion as u128) << 1 | options.fast as u128);
    let key = (hash, graph.nodes.len());
    let mut cache = CACHE.lock().unwrap_or_else(|e| e.into_inner());
    cache.clock += 1;
    let clock = cache.clock;
    if let Some((used, plan)) = cache.plans.get_mut(&key) {
        *used = clock;
        return plan.clone();
    }
    MADE.set(MADE.get() + 1);
    let lowered = lower::lower(graph, options.fusion);
    let plan = Arc::new(memory::place(graph, lowered, |spec| engine().compile(spec)));
    cache.insert(key, plan.clone());
    plan
}
