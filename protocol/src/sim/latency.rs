//! How long a message is on its way: between two bounds for every pair alike, or as far as ten cities are apart.

use super::Chance;

/// A model of one-way delays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latency {
    /// At least and at most so many milliseconds, for every pair alike.
    Within(u64, u64),
    /// Members stand in ten cities in turn. A way takes half the measured round trip and up to a quarter
    /// more; one in fifty is sent twice and takes a whole round trip longer.
    Wan,
}

/// Where the members of a [`Latency::Wan`] stand, in turn.
const CITIES: [&str; 10] = [
    "Dallas",
    "Toronto",
    "Washington",
    "Frankfurt",
    "London",
    "Madrid",
    "Osaka",
    "Sydney",
    "Tokyo",
    "São Paulo",
];

/// Mean round trips between [`CITIES`] in milliseconds, from the row's to the column's, as IBM Cloud measured them
/// between its regions from 17 August to 15 September 2024 (IBM Cloud docs, VPC, "Network latency dashboards");
/// on the diagonal those between the zones of a region.
const ROUND_TRIPS: [[u64; 10]; 10] = [
    [2, 34, 31, 123, 113, 117, 150, 185, 143, 145],
    [34, 2, 19, 92, 82, 109, 169, 215, 161, 130],
    [32, 20, 2, 91, 76, 88, 173, 214, 166, 118],
    [123, 93, 91, 2, 13, 29, 232, 250, 228, 197],
    [113, 83, 75, 13, 2, 27, 244, 261, 242, 187],
    [121, 109, 90, 29, 27, 2, 259, 275, 256, 207],
    [151, 168, 175, 232, 244, 258, 2, 122, 9, 292],
    [186, 214, 216, 250, 261, 275, 122, 2, 115, 327],
    [143, 162, 166, 231, 242, 257, 9, 115, 2, 284],
    [146, 130, 119, 198, 187, 205, 290, 328, 285, 2],
];

impl Latency {
    /// One machine room: a millisecond or two.
    pub const LAN: Self = Self::Within(1, 2);

    /// The milliseconds of one way between two places.
    pub(super) fn draw(self, chance: &mut Chance, from: usize, to: usize) -> u64 {
        match self {
            Self::Within(least, most) => chance.within(least, most),
            Self::Wan => {
                let trip = round_trip(from, to);
                let way = trip.div_ceil(2);
                let again = if chance.percent(2) { trip } else { 0 };
                way + chance.below(way / 4 + 2) + again
            }
        }
    }
}

fn round_trip(from: usize, to: usize) -> u64 {
    let city = |place: usize| place % CITIES.len();
    let row = ROUND_TRIPS.get(city(from));
    row.and_then(|row| row.get(city(to))).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_as_long_as_the_cities_are_apart() {
        let mut chance = Chance::new(1, "latency");
        let mut ways = |from, to| {
            let mut ways: Vec<u64> = (0..500)
                .map(|_| Latency::Wan.draw(&mut chance, from, to))
                .collect();
            ways.sort_unstable();
            ways
        };
        // Frankfurt and Sydney are 250 ms apart and back, member 13 stands in Frankfurt again.
        for ways in [ways(3, 7), ways(13, 17)] {
            assert!(ways[0] >= 125 && ways[250] <= 157, "{ways:?}");
            assert!(*ways.last().expect("500 ways") >= 250 + 125, "{ways:?}");
        }
        assert!(ways(3, 13)[250] <= 3, "one city");
    }

    #[test]
    fn there_and_back_are_about_equally_far() {
        for (from, row) in ROUND_TRIPS.iter().enumerate() {
            for (to, there) in row.iter().enumerate() {
                let back = ROUND_TRIPS[to][from];
                assert!(there.abs_diff(back) <= 5, "{from} {to}: {there} {back}");
            }
        }
    }

    #[test]
    fn a_fixed_latency_never_varies() {
        let mut chance = Chance::new(1, "latency");
        assert!((0..100).all(|_| Latency::Within(50, 50).draw(&mut chance, 0, 1) == 50));
    }
}
