use super::*;
use crate::dataset::{Features, InMemory, Targets};
use crate::error::Error;
use crate::preprocess::Scaling;
use crate::schema::{Input, Schema};
use fornax_tensor::DType;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn pictures(n: usize) -> SharedDataset {
    let schema = Schema {
        name: "pictures".into(),
        input: Input::Image {
            channels: 1,
            height: 4,
            width: 4,
        },
        target: TargetKind::Classes {
            names: ["a", "b", "c"].map(String::from).to_vec(),
        },
    };
    let data = (0..n * 16).map(|i| (i * 7 % 256) as u8).collect();
    let features = Features::Bytes {
        data,
        divisor: 255.0,
    };
    let labels = (0..n as i64).map(|i| i % 3).collect();
    InMemory::new(schema, features, Targets::Classes(labels))
        .unwrap()
        .shared()
}

/// All that an epoch gives, as plain numbers.
fn contents(epoch: Epoch) -> Vec<(Vec<f32>, Vec<i64>, Vec<usize>)> {
    epoch
        .map(|batch| {
            let b = batch.unwrap();
            (b.x.to_vec(), b.y.to_vec(), b.indices)
        })
        .collect()
}

fn full(n: usize) -> Loader {
    let data = pictures(n);
    let rule = Preprocess::fit(&data, &Scaling::Standard).unwrap();
    let steps = [Augment::random_crop(2), Augment::horizontal_flip()];
    Loader::new(data)
        .batch_size(8)
        .shuffle(5)
        .augment(&steps, 5)
        .unwrap()
        .preprocess(rule)
        .unwrap()
}

#[test]
fn a_batch_holds_its_samples_in_shape() {
    let loader = Loader::new(pictures(5)).batch_size(2).threads(0);
    let batches: Vec<Batch> = loader.epoch(0).map(Result::unwrap).collect();
    assert_eq!(batches.len(), 3);
    assert_eq!(batches[0].x.shape(), [2, 1, 4, 4]);
    assert_eq!(
        (batches[0].x.dtype(), batches[0].y.dtype()),
        (DType::F32, DType::I64)
    );
    assert_eq!(batches[2].x.shape(), [1, 1, 4, 4]);
    assert_eq!(
        (batches[2].y.to_vec::<i64>(), &batches[2].indices),
        (vec![1], &vec![4])
    );
    let mut x = vec![0.0; 16];
    loader.dataset().read(4, &mut x).unwrap();
    assert_eq!(batches[2].x.to_vec::<f32>(), x);
}

#[test]
fn values_keep_their_shape() {
    let one = InMemory::regression("r", &[2], vec![1., 2., 3., 4.], vec![5., 6.]).unwrap();
    let batch = Loader::new(one.shared()).epoch(0).next().unwrap().unwrap();
    assert_eq!((batch.x.shape(), batch.y.shape()), (&[2, 2][..], &[2][..]));
    assert_eq!(
        (batch.y.dtype(), batch.y.to_vec::<f32>()),
        (DType::F32, vec![5., 6.])
    );
    let schema = Schema {
        name: "pairs".into(),
        input: Input::Array { shape: vec![1] },
        target: TargetKind::Values {
            shape: vec![2],
            name: "pair".into(),
        },
    };
    let features = Features::Floats(vec![0.0; 3]);
    let targets = Targets::Values((0..6).map(|i| i as f32).collect());
    let data = InMemory::new(schema, features, targets).unwrap().shared();
    let batch = Loader::new(data).epoch(0).next().unwrap().unwrap();
    assert_eq!(batch.y.shape(), [3, 2]);
    assert_eq!(batch.y.to_vec::<f32>(), [0., 1., 2., 3., 4., 5.]);
}

#[test]
fn every_sample_is_visited_once_in_an_order_of_the_epoch() {
    let loader = Loader::new(pictures(50)).batch_size(7).shuffle(3);
    let visited = |epoch| -> Vec<usize> {
        loader
            .epoch(epoch)
            .flat_map(|b| b.unwrap().indices)
            .collect()
    };
    let first = visited(0);
    let mut sorted = first.clone();
    sorted.sort();
    assert_eq!(sorted, (0..50).collect::<Vec<usize>>());
    assert_eq!(visited(0), first);
    assert_ne!(visited(1), first);
    let short = loader.clone().drop_last(true);
    assert_eq!((short.batches(), short.samples()), (7, 49));
    assert_eq!((loader.batches(), loader.samples()), (8, 50));
    assert_eq!(
        short.epoch(0).map(|b| b.unwrap().len()).collect::<Vec<_>>(),
        [7; 7]
    );
}

#[test]
fn threads_and_prefetching_change_nothing() {
    let want = contents(full(101).threads(0).epoch(4));
    assert_eq!(want.len(), 13);
    for threads in [1, 2, 3, 20] {
        for prefetch in [0, 1, 5] {
            let loader = full(101).threads(threads).prefetch(prefetch);
            assert!(
                contents(loader.epoch(4)) == want,
                "{threads} threads, {prefetch} ahead"
            );
        }
    }
}

#[test]
fn an_epoch_goes_on_from_its_middle() {
    for threads in [0, 1, 2] {
        let loader = full(101).threads(threads);
        let all = contents(loader.epoch(2));
        for done in [0, 1, 5, 12, 13, 99] {
            let rest = loader.epoch(2).skip(done);
            assert_eq!(rest.len(), 13usize.saturating_sub(done));
            assert!(contents(rest) == all[done.min(13)..], "{done}");
        }
        let mut epoch = loader.epoch(2);
        epoch.nth(4);
        let position = epoch.position();
        drop(epoch);
        assert!(contents(loader.epoch(2).skip(position)) == all[5..]);
    }
}

#[test]
fn augmentation_changes_with_the_epoch_but_not_with_the_batch() {
    let by_sample = |loader: &Loader, epoch| {
        let mut rows: Vec<(usize, Vec<f32>)> = contents(loader.epoch(epoch))
            .into_iter()
            .flat_map(|(x, _, indices)| {
                let rows = x.chunks(16).map(<[f32]>::to_vec).collect::<Vec<_>>();
                indices.into_iter().zip(rows)
            })
            .collect();
        rows.sort_by_key(|r| r.0);
        rows
    };
    let loader = full(40);
    let rows = by_sample(&loader, 0);
    assert!(rows != by_sample(&loader, 1));
    assert!(rows == by_sample(&loader.clone().batch_size(3).shuffle(77), 0));
}

/// A dataset that breaks at one sample, and counts the reads.
struct Broken {
    data: SharedDataset,
    at: usize,
    panics: bool,
    reads: AtomicUsize,
    pause: Duration,
}

impl Broken {
    fn new(at: usize, panics: bool) -> Arc<Broken> {
        Arc::new(Broken {
            data: pictures(30),
            at,
            panics,
            reads: AtomicUsize::new(0),
            pause: Duration::ZERO,
        })
    }
}

impl Dataset for Broken {
    fn schema(&self) -> &Schema {
        self.data.schema()
    }

    fn len(&self) -> usize {
        self.data.len()
    }

    fn read(&self, index: usize, x: &mut [f32]) -> Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.pause);
        if index != self.at {
            return self.data.read(index, x);
        }
        assert!(!self.panics, "sample {index} is beyond repair");
        Err(Error::Image {
            path: "broken.png".into(),
            problem: "it is broken".into(),
        })
    }

    fn class(&self, index: usize) -> i64 {
        self.data.class(index)
    }
}

#[test]
fn an_error_comes_in_its_place_and_ends_the_epoch() {
    for threads in [0, 1, 2] {
        let loader = Loader::new(Broken::new(17, false))
            .batch_size(5)
            .threads(threads);
        let mut epoch = loader.epoch(0);
        for _ in 0..3 {
            assert!(epoch.next().unwrap().is_ok());
        }
        let text = epoch.next().unwrap().err().unwrap().to_string();
        assert!(text.contains("broken.png"), "{text}");
        assert!(epoch.next().is_none());
        assert!(epoch.next().is_none());
    }
}

#[test]
fn a_panic_on_a_thread_reaches_the_caller() {
    for threads in [0, 1, 2] {
        let loader = Loader::new(Broken::new(17, true))
            .batch_size(5)
            .threads(threads);
        let run = std::panic::AssertUnwindSafe(|| loader.epoch(0).count());
        let panic = std::panic::catch_unwind(run).unwrap_err();
        let text = panic.downcast_ref::<String>().unwrap();
        assert!(text.contains("sample 17 is beyond repair"), "{text}");
    }
}

#[test]
fn an_epoch_dropped_early_stops_its_threads() {
    let broken = Broken::new(usize::MAX, false);
    let loader = Loader::new(broken.clone())
        .batch_size(1)
        .threads(3)
        .prefetch(1);
    for taken in [0, 1, 4] {
        let mut epoch = loader.epoch(0);
        for _ in 0..taken {
            epoch.next();
        }
        drop(epoch);
        // The threads are gone: they hold neither the dataset nor read from it.
        let reads = broken.reads.load(Ordering::SeqCst);
        assert_eq!(Arc::strong_count(&broken), 2);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(broken.reads.load(Ordering::SeqCst), reads);
    }
}

#[test]
fn batches_are_made_ahead_but_not_too_far() {
    let broken = Arc::new(Broken {
        pause: Duration::from_millis(1),
        ..Arc::into_inner(Broken::new(usize::MAX, false)).unwrap()
    });
    let loader = Loader::new(broken.clone()).batch_size(2).prefetch(2);
    let mut epoch = loader.epoch(0);
    assert_eq!(
        broken.reads.load(Ordering::SeqCst),
        0,
        "nothing before the first is asked for"
    );
    epoch.next();
    // Two wait, and one is ready to follow; wait for that, then see that there is no more.
    let start = Instant::now();
    while broken.reads.load(Ordering::SeqCst) < 8 && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(broken.reads.load(Ordering::SeqCst), 8);
}

#[test]
fn what_does_not_fit_is_refused() {
    let other = InMemory::regression("other", &[3], vec![0.0; 3], vec![0.0]).unwrap();
    let rule = Preprocess::fit(&other, &Scaling::Standard).unwrap();
    assert!(Loader::new(pictures(2)).preprocess(rule).is_err());
    let table = Loader::new(other.shared());
    assert!(
        table
            .clone()
            .augment(&[Augment::random_crop(1)], 0)
            .is_err()
    );
    assert!(
        table.augment(&[], 0).is_ok(),
        "no augmentation suits all data"
    );
    let empty = InMemory::regression("empty", &[3], vec![], vec![]).unwrap();
    let loader = Loader::new(empty.shared());
    assert_eq!((loader.batches(), loader.epoch(0).count()), (0, 0));
}

#[test]
#[should_panic(expected = "a batch needs at least one sample")]
fn a_batch_of_nothing_is_a_mistake() {
    let _ = Loader::new(pictures(2)).batch_size(0);
}

#[test]
#[should_panic(expected = "skip batches before taking the first one")]
fn skipping_in_the_middle_is_a_mistake() {
    let mut epoch = Loader::new(pictures(9)).batch_size(2).epoch(0);
    epoch.next();
    let _ = epoch.skip(1);
}

#[test]
fn a_lone_last_sample_joins_the_batch_before() {
    let sizes = |n: usize, size: usize, threads: usize| -> Vec<usize> {
        let loader = Loader::new(pictures(n)).batch_size(size).shuffle(1);
        let loader = loader.merge_lone(true).threads(threads);
        let batches: Vec<Batch> = loader.epoch(0).map(Result::unwrap).collect();
        assert_eq!(batches.len(), loader.batches());
        let mut seen: Vec<usize> = batches.iter().flat_map(|b| b.indices.clone()).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..loader.samples()));
        batches.iter().map(Batch::len).collect()
    };
    for threads in [0, 2] {
        assert_eq!(sizes(9, 4, threads), [4, 5]);
        assert_eq!(sizes(10, 4, threads), [4, 4, 2]);
        assert_eq!(sizes(8, 4, threads), [4, 4]);
        assert_eq!(sizes(3, 2, threads), [3]);
        assert_eq!(sizes(2, 1, threads), [1, 1]);
        assert_eq!(sizes(1, 4, threads), [1]);
    }
    // What joins is what would have come alone.
    let loader = Loader::new(pictures(9)).batch_size(4).shuffle(1);
    let apart = contents(loader.epoch(3));
    let joined = contents(loader.merge_lone(true).epoch(3).skip(1));
    assert_eq!(joined[0].2, [&apart[1].2[..], &apart[2].2[..]].concat());
}
