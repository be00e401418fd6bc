"""The sums of `multipoles` over many points in linear time, by the fast multipole method."""
