"""Why a row misses its `must` goal, after honest work: row key to one sentence with the evidence."""

_SORTED = (
    "sorting the voxels costs a third of the time and makes the scatter that follows random; the goal's prototype "
    "returned them in first-come order, which meets it in the row above"
)

REASONS: dict[str, str] = {
    "points-in-boxes-50": (
        "37 % of this sweep's points lie in the 50 boxes: with the boxes moved away the call takes less than half the "
        "time, the rest sorts and tests those points; compressing kept points with vector code changed nothing, loading"
        " columns by vector permutations took a tenth off"
    ),
    "nms-overhead": (
        "every call is slower on this machine: torchvision's takes about 48 µs here against the 18 µs it took where "
        "the goal was set; ours is the same share of it, the raw operator about 40 % of ours"
    ),
    "points-in-boxes-500": (
        "met with AVX-512 (×2,040); with AVX2 alone ×535. Of the samples in the kernel with AVX2, 64 % fall into the "
        "loops that place the points and test them against boxes, which have half the lanes then, 31 % into sorting "
        "the points, 5 % into preparing the boxes"
    ),
    "voxelize-sweeps": (
        "met with AVX-512 (×1.93) and not with AVX2 alone (×1.63). Of the samples in the kernel with AVX2, 39 % fall "
        "into the hash table that numbers the voxels, 17 % into the cells' arithmetic, 17 % into the loops inlined "
        "into the entry, among them the copying of points, 14 % into zero fill and coordinates, about 10 % into the "
        "fresh output's pages; spconv's generator keeps its output and a dense table between calls"
    ),
    "group-max": (
        "×6.9 before, ×7.9 on a busy machine since rows are fetched while others are worked on (1.4 times as fast in a "
        "loop beside the old one), with AVX2. Beyond torch's amax it finds which row has the maximum, for the "
        "gradient: with all rows in the first cache, leaving that out took a third off; reading 4 MB of rows in random "
        "order is another third of the whole; 17 % of the samples fall into listing the rows of the groups"
    ),
    "mean-voxels-sweeps": (
        "around the goal: ×3.84 with AVX-512, above ×4 in two runs with AVX2 alone; both sides wait for memory"
    ),
    "mean-voxels-kitti": "around the goal: ×3.95 to ×4.42 in four records; both sides wait for memory",
    "group-fresh": (
        "around the goal: ×0.81 and ×0.93 in two records; about half of the call is the fresh output: with one given "
        "(the row beside it) it is ×1.6 and ×1.7"
    ),
    "mean-voxels-kitti-lex": _SORTED,
    "mean-voxels-sweeps-lex": _SORTED,
    "rulebook-submanifold-4k": (
        "×6 to ×8.5 on a processor with AVX2 alone, more for sorted sites; keys by runs of 62 cells with "
        "bit masks were tried as a second algorithm: as fast within noise"
    ),
    "rulebook-submanifold-16k": (
        "×6 to ×8.5 on a processor with AVX2 alone, more for sorted sites; keys by runs of 62 cells with "
        "bit masks were tried as a second algorithm: as fast within noise"
    ),
    "rulebook-strided-16k": (
        "×4.7 to ×6: sorting the pairs takes a third and the fresh table of 27 entries a site another; a hash instead "
        "of the second sort for repeated sites and one pass instead of two raised it from ×4.3"
    ),
}
