//! Where a world may go one way or another: at random, each way in turn, or the way without faults.

/// What decides.
#[derive(Debug)]
pub(crate) enum Choices {
    /// A draw, by the weights of the ways.
    Random(Random),
    /// Each way in turn: which one of how many was taken so far, and how many have been asked for.
    Each(Vec<(u8, u8)>, usize),
    /// The first way, always: nothing fails.
    First,
}

impl Choices {
    pub(crate) const fn each() -> Self {
        Self::Each(Vec::new(), 0)
    }

    /// One of these ways, each with its weight; the first one is that of a world without faults.
    pub(crate) fn pick<T: Copy>(&mut self, ways: &[(usize, T)]) -> T {
        let way = match self {
            Self::First => 0,
            Self::Random(random) => {
                let mut drawn = random.below(ways.iter().map(|(weight, _)| weight).sum());
                let reaches = |&(weight, _): &(usize, T)| {
                    let is_it = drawn < weight;
                    drawn = drawn.wrapping_sub(weight);
                    is_it
                };
                ways.iter().position(reaches).unwrap()
            }
            Self::Each(picks, asked) => {
                if *asked == picks.len() {
                    picks.push((0, u8::try_from(ways.len()).unwrap()));
                }
                let (pick, of) = picks[*asked];
                assert_eq!(usize::from(of), ways.len(), "a world that draws by itself");
                *asked += 1;
                usize::from(pick)
            }
        };
        ways[way].1
    }

    /// Whether something happens that one time in so many goes wrong.
    pub(crate) fn is_hit(&mut self, one_in: usize) -> bool {
        self.pick(&[(one_in - 1, false), (1, true)])
    }

    /// On to the next combination of ways, from its beginning; false once each was tried.
    pub(super) fn next(&mut self) -> bool {
        let Self::Each(picks, asked) = self else {
            return false;
        };
        *asked = 0;
        while let Some((pick, of)) = picks.pop() {
            if pick + 1 < of {
                picks.push((pick + 1, of));
                return true;
            }
        }
        false
    }

    /// What was taken so far.
    pub(super) fn picks(&self) -> Picks {
        let Self::Each(picks, _) = self else {
            return Picks(1);
        };
        let packed = picks.iter().fold(1, |packed: u64, &(pick, _)| {
            assert!(pick < 16 && packed < 1 << 60, "too many ways");
            packed << 4 | u64::from(pick)
        });
        Picks(packed)
    }
}

/// Which ways were taken in one transition: four bits each, behind a leading one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Picks(u64);

impl std::fmt::Debug for Picks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", &format!("{:x}", self.0)[1..])
    }
}

/// Sebastiano Vigna's `SplitMix64`.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % end.max(1) as u64).unwrap()
    }
}
