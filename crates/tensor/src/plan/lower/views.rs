//! First pass: which nodes are views of others, and what is wanted in the end.

use super::*;
use crate::prim::axis_list;

impl Lowering<'_> {
    pub(super) fn resolve_views(&mut self) {
        let mut scalars = 0;
        for i in 0..self.graph.nodes.len() {
            let node = &self.graph.nodes[i];
            let own = |layout| Res::View {
                base: i as u32,
                layout,
                direct: true,
            };
            let fresh = || own(Layout::contiguous(node.shape().clone()));
            let res = if let Some(leaf) = self.graph.leaf(i) {
                own(leaf.layout.clone())
            } else {
                if node.prim().key().is_some() {
                    self.key_slots.insert(i as u32, self.key_slots.len() as u32);
                }
                match node.prim() {
                    Prim::Const(_) => {
                        scalars += 1;
                        Res::Const(scalars - 1)
                    }
                    Prim::StopGradient => self.res[self.graph.inputs(i)[0] as usize].clone(),
                    Prim::Barrier => match self.res[self.graph.inputs(i)[0] as usize].clone() {
                        Res::View { base, layout, .. } => Res::View {
                            base,
                            layout,
                            direct: false,
                        },
                        constant => constant,
                    },
                    Prim::Reshape | Prim::Permute(_) | Prim::Broadcast | Prim::Slice(_) => {
                        match self.moved(i) {
                            Some(res) => res,
                            None => fresh(),
                        }
                    }
                    Prim::Concat(axis) => self.neighbours(i, *axis).unwrap_or_else(fresh),
                    _ => fresh(),
                }
            };
            self.res.push(res);
        }
        for i in 0..self.graph.nodes.len() {
            if self.is_kernel(i) {
                for &input in self.graph.inputs(i) {
                    if let Res::View { base, .. } = self.res[input as usize] {
                        self.uses[base as usize] += 1;
                    }
                }
            }
        }
    }

    /// A movement as a view, or `None` if it needs a copy.
    pub(super) fn moved(&self, i: usize) -> Option<Res> {
        let node = &self.graph.nodes[i];
        let Res::View {
            base,
            layout,
            direct,
        } = &self.res[self.graph.inputs(i)[0] as usize]
        else {
            return Some(self.res[self.graph.inputs(i)[0] as usize].clone());
        };
        let layout = match node.prim() {
            Prim::Reshape => layout.reshape(node.shape())?,
            Prim::Permute(axes) => layout.permute(&axis_list(axes)),
            Prim::Broadcast => layout.broadcast_to(node.shape()),
            Prim::Slice(s) => (0..node.shape().len()).fold(layout.clone(), |l, d| {
                l.slice(d, s.starts[d], node.shape()[d], s.steps[d])
            }),
            _ => unreachable!("not a movement"),
        };
        let whole = matches!(node.prim(), Prim::Reshape) && *direct;
        Some(Res::View {
            base: *base,
            layout,
            direct: whole,
        })
    }

    /// A concatenation of what already lies one behind the other, in plain order, in one value of which it is
    /// most: then it keeps little alive that nobody asked for, and nobody has to copy it.
    fn neighbours(&self, i: usize, axis: usize) -> Option<Res> {
        let mut layouts: SmallVec<[&Layout; 4]> = SmallVec::new();
        let mut of = None;
        for &k in self.graph.inputs(i) {
            let Res::View { base, layout, .. } = &self.res[k as usize] else {
                return None;
            };
            if *of.get_or_insert(*base) != *base {
                return None;
            }
            layouts.push(layout);
        }
        let (base, layout) = (of?, Layout::joined(&layouts, axis)?);
        let all = self.graph.nodes[base as usize].shape().numel();
        let suits = layout.is_contiguous() && 2 * layout.numel() > all;
        suits.then_some(Res::View {
            base,
            layout,
            direct: false,
        })
    }

    pub(super) fn mark_outputs(&mut self) {
        for (i, node) in self.graph.nodes.iter().enumerate() {
            if !node.output {
                continue;
            }
            match self.res[i].clone() {
                Res::View { base, layout, .. } => {
                    self.stored[base as usize] |= !self.is_leaf(base as usize);
                    self.out.outputs.push((i as u32, base, layout));
                }
                Res::Const(_) => {
                    let value = self.fill(i);
                    let layout = Layout::contiguous(node.shape().clone());
                    self.out.outputs.push((i as u32, value, layout));
                }
            }
        }
    }
}
