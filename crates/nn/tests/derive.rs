//! `#[derive(Module)]` on every kind of type.

use fornax_nn::{Buffer, Entry, EntryMut, Layer, Linear, Module, Param, Path, ReLU};
use fornax_tensor::{DType, Tensor};
use std::marker::PhantomData;

fn t(n: usize) -> Tensor {
    Tensor::zeros([n], DType::F32)
}

fn names(m: &dyn Module) -> Vec<String> {
    m.state_dict().into_iter().map(|e| e.0).collect()
}

/// The names that the mutable walk shows, which must be those of the other.
fn names_mut(m: &mut dyn Module) -> Vec<String> {
    let mut out = Vec::new();
    m.visit_mut(&mut Path::new(), &mut |path, _: EntryMut<'_>| {
        out.push(path.to_owned())
    });
    out
}

#[derive(Module)]
struct Everything<L: Layer, T = f32> {
    first: L,
    #[module(rename = "LayerNorm")]
    norm: Option<Linear>,
    r#type: Param,
    #[module(flatten)]
    inner: (Tensor, Buffer),
    list: Vec<Box<dyn Layer>>,
    #[module(skip)]
    #[allow(dead_code)]
    name: String,
    #[module(skip)]
    #[allow(dead_code)]
    marker: PhantomData<T>,
}

#[test]
fn a_struct_with_everything() {
    let mut m = Everything::<Linear> {
        first: Linear::new(1, 1),
        norm: Some(Linear::new(1, 1).bias(false)),
        r#type: Param::new(t(1)),
        inner: (t(1), Buffer::new(t(1))),
        list: vec![Box::new(ReLU), Box::new(Linear::new(1, 1).bias(false))],
        name: "plain".to_owned(),
        marker: PhantomData,
    };
    let expected = [
        "first.weight",
        "first.bias",
        "LayerNorm.weight",
        "type",
        "0",
        "1",
        "list.1.weight",
    ];
    assert_eq!(names(&m), expected);
    assert_eq!(names_mut(&mut m), expected);
}

#[derive(Module)]
struct Pair(
    Param,
    #[module(skip)]
    #[allow(dead_code)]
    usize,
    Param,
);

#[derive(Module)]
struct Nothing;

#[derive(Module)]
enum Choice<A> {
    One(A),
    Two(Param, Pair),
    Three { gate: Param, rest: Nothing },
    Four,
}

#[derive(Module)]
enum Never {}

#[test]
fn tuples_and_enums() {
    let pair = || Pair(Param::new(t(1)), 3, Param::new(t(1)));
    assert_eq!(names(&pair()), ["0", "2"]);
    assert!(names(&Nothing).is_empty());
    let mut all: Vec<Choice<Pair>> = vec![
        Choice::One(pair()),
        Choice::Two(Param::new(t(1)), pair()),
        Choice::Three {
            gate: Param::new(t(1)),
            rest: Nothing,
        },
        Choice::Four,
    ];
    let expected = ["0.0", "0.2", "1.0", "1.1.0", "1.1.2", "2.gate"];
    assert_eq!(names(&all), expected);
    assert_eq!(names_mut(&mut all), expected);
    assert!(names(&None::<Never>).is_empty());
}

#[derive(Module)]
struct Tree {
    value: Param,
    children: Vec<Tree>,
}

#[test]
fn recursive_types() {
    let leaf = || Tree {
        value: Param::new(t(1)),
        children: vec![],
    };
    let tree = Tree {
        value: Param::new(t(1)),
        children: vec![leaf(), leaf()],
    };
    assert_eq!(
        names(&tree),
        ["value", "children.0.value", "children.1.value"]
    );
}

#[test]
fn a_recording_walk_enters_derived_types() {
    let mut path = Path::recording();
    let m = Pair(Param::new(t(1)), 0, Param::new(t(1)));
    vec![m].visit(&mut path, &mut |_: Entry<'_>| {});
    assert_eq!(path.visited().len(), 1);
    assert_eq!(
        (path.visited()[0].path.as_str(), path.visited()[0].type_name),
        ("0", "Pair")
    );
}
