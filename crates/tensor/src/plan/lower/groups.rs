//! Second pass: which nodes become one kernel.

use super::*;

impl Lowering<'_> {
    pub(super) fn assign(&mut self, i: usize) {
        let node = &self.graph.nodes[i];
        match node.prim() {
            p if p.is_map() => self.assign_map(i),
            Prim::Reduce(..) => {
                let prologue = self.absorbable(i);
                if prologue.is_none() {
                    self.read_all(i);
                }
                let members = prologue.map(|g| {
                    self.groups[g].open = false;
                    std::mem::take(&mut self.groups[g].members)
                });
                let group = Group {
                    prologue: members.unwrap_or_default(),
                    ..Group::default()
                };
                self.open_anchored(i, group);
            }
            Prim::MatMul(_) => {
                self.read_all(i);
                self.open_anchored(i, Group::default());
            }
            Prim::Conv(c) => {
                self.read_all(i);
                self.open_anchored(i, Group::default());
                if c.face != Face::Output {
                    self.close_group_of(i);
                }
            }
            _ => {
                self.read_all(i);
                self.open_anchored(i, Group::default());
                self.close_group_of(i);
            }
        }
    }

    pub(super) fn open_anchored(&mut self, i: usize, group: Group) {
        self.group_of[i] = self.groups.len() as u32;
        self.groups.push(Group {
            anchor: Some(i as u32),
            open: self.fusion,
            ..group
        });
        if !self.fusion {
            self.stored[i] = true;
        }
    }

    pub(super) fn close_group_of(&mut self, i: usize) {
        self.groups[self.group_of[i] as usize].open = false;
        self.stored[i] = true;
    }

    /// The value of `base` is read from memory by somebody outside its group.
    pub(super) fn read(&mut self, base: ValueId) {
        let base = base as usize;
        if self.is_leaf(base) {
            return;
        }
        self.stored[base] = true;
        self.groups[self.group_of[base] as usize].open = false;
    }

    pub(super) fn read_all(&mut self, i: usize) {
        for &input in self.graph.inputs(i) {
            if let Res::View { base, .. } = self.res[input as usize] {
                self.read(base);
            }
        }
    }

    /// Whether the strided inputs of map `i` can be seen under the frame of group `g`.
    pub(super) fn fits_frame(&self, i: usize, g: u32) -> bool {
        let Some(frame) = &self.groups[g as usize].frame else {
            return true;
        };
        self.strided(i)
            .all(|layout| under_shape(layout, frame).is_some())
    }

    /// The layouts of the inputs of map `i` that are not simply in order.
    pub(super) fn strided(&self, i: usize) -> impl Iterator<Item = &Layout> {
        let inputs = self.graph.inputs(i).iter();
        inputs.filter_map(|&k| match &self.res[k as usize] {
            Res::View { layout, .. } if !layout.is_contiguous() => Some(layout),
            _ => None,
        })
    }

    pub(super) fn assign_map(&mut self, i: usize) {
        let inputs = self.graph.inputs(i);
        // Strided reads first: they close groups that could otherwise be joined.
        for &input in inputs {
            if let Res::View {
                base,
                direct: false,
                ..
            } = self.res[input as usize]
            {
                self.read(base);
            }
        }
        let mut home: Option<u32> = None;
        for &input in inputs {
            let Res::View {
                base, direct: true, ..
            } = self.res[input as usize]
            else {
                continue;
            };
            if self.is_leaf(base as usize) {
                continue;
            }
            let g = self.group_of[base as usize];
            let joinable = self.fusion && self.groups[g as usize].open && self.fits_frame(i, g);
            if home == Some(g) || !joinable {
                continue;
            }
            home = match home {
                None if self.groups[g as usize].members.len() < MAX_TAPE => Some(g),
                None => None,
                Some(h) => Some(self.try_merge(h, g)),
            };
        }
        let home = home.unwrap_or_else(|| {
            self.groups.push(Group {
                open: true,
                ..Group::default()
            });
            self.groups.len() as u32 - 1
        });
        self.group_of[i] = home;
        if self.groups[home as usize].frame.is_none() && self.strided(i).next().is_some() {
            self.groups[home as usize].frame = Some(self.graph.nodes[i].shape().clone());
        }
        self.groups[home as usize].members.push(i as u32);
        for &input in inputs {
            let Res::View { base, direct, .. } = self.res[input as usize] else {
                continue;
            };
            if self.is_leaf(base as usize) {
                continue;
            }
            if direct && self.group_of[base as usize] == home {
                self.inner[base as usize] += 1;
            } else {
                self.read(base);
            }
        }
    }

    /// Two open groups as one, if they may be; else the first, and the second is left alone.
    pub(super) fn try_merge(&mut self, a: u32, b: u32) -> u32 {
        let (ga, gb) = (&self.groups[a as usize], &self.groups[b as usize]);
        let too_long = ga.members.len() + gb.members.len() >= MAX_TAPE;
        let frames = ga.frame.is_some() && gb.frame.is_some() && ga.frame != gb.frame;
        if too_long || frames || (ga.anchor.is_some() && gb.anchor.is_some()) {
            return a;
        }
        // The anchored one, or else the longer one, takes in the other.
        let keep_b =
            gb.anchor.is_some() || (ga.anchor.is_none() && gb.members.len() > ga.members.len());
        let (keep, gone) = if keep_b { (b, a) } else { (a, b) };
        let moved = std::mem::take(&mut self.groups[gone as usize].members);
        let frame = self.groups[gone as usize].frame.take();
        self.groups[gone as usize].open = false;
        for &m in &moved {
            self.group_of[m as usize] = keep;
        }
        let group = &mut self.groups[keep as usize];
        group.members.extend(moved);
        group.frame = group.frame.take().or(frame);
        keep
    }

    /// The group that computes the reduction's input, if it can run inside the reduction: it has
    /// no anchor, nothing else reads it, and its inputs can be seen under the reduction's shape.
    pub(super) fn absorbable(&self, i: usize) -> Option<usize> {
        let input = self.graph.inputs(i)[0] as usize;
        let Res::View {
            base, direct: true, ..
        } = &self.res[input]
        else {
            return None;
        };
        let base = *base as usize;
        if self.is_leaf(base) || !self.fusion {
            return None;
        }
        let g = self.group_of[base] as usize;
        let group = &self.groups[g];
        if !group.open || group.anchor.is_some() || self.stored[base] || self.uses[base] != 1 {
            return None;
        }
        let shape = self.graph.nodes[input].shape();
        for &m in &group.members {
            let m = m as usize;
            if m != base && (self.stored[m] || self.uses[m] != self.inner[m]) {
                return None;
            }
            let node = &self.graph.nodes[m];
            if matches!(node.prim(), Prim::Uniform(_)) {
                return None;
            }
            for &k in self.graph.inputs(m) {
                if let Res::View {
                    base: b,
                    layout,
                    direct,
                } = &self.res[k as usize]
                {
                    let inside = *direct
                        && self.group_of[*b as usize] == g as u32
                        && !self.is_leaf(*b as usize);
                    if !inside && under_shape(layout, shape).is_none() {
                        return None;
                    }
                }
            }
        }
        Some(g)
    }
}
