"""Phrases of the page of many machines that quote a figure; see `phrases`."""

from benchmark_tables import read, select


def _off(quantity: str) -> str:
    """Return by how many percent the model is off at most, in the mean of ranks."""
    rows = [row for row in read("distributed_model") if row["quantity"] == quantity]
    return f"{max(100 * abs(float(r['predicted']) / float(r['mean']) - 1) for r in rows):.0f} %"


def distributed() -> list[str]:
    """Return what ranks count, what they take, and what a thousand would."""
    alone, pair = (select(read("distributed_memory"), ranks=ranks) for ranks in ("1", "2"))
    eight = select(read("distributed_memory"), ranks="8")
    fast, late, narrow = (
        {k: float(v) for k, v in row.items() if k != "network"}
        for row in read("distributed_cluster")
        if row["ranks"] == "1000"
    )
    from fmm.distributed.model import Network

    network = Network()
    two = select(read("distributed_time"), ranks="2")
    fields = ("MB_neighbours", "MB_callers", "MB_summed", "messages_to_neighbours")
    near, callers, top, messages = (fast[name] for name in fields)
    return [
        f"messages of {1e6 * network.latency:g} µs and {network.bandwidth / 1e9:g} GB/s",
        f"sources within {_off('ghosts')}, boxes within {_off('boxes')}, messages within "
        f"{_off('messages')} and bytes within {_off('MB')}",
        f"took {float(two['again']) / float(two['apart']):.2f} times as long as two that had "
        "nothing to do with each other",
        f"{float(alone['memory']):.0f} bytes for each point on one rank, "
        f"{float(pair['memory']):.0f} on each of two",
        f"{float(eight['memory']):.0f} on the fullest of eight",
        f"{fast['ghosts'] / 1e3:.0f} 000 sources and {fast['boxes']:.0f} expansions of others",
        f"in {messages:.0f} messages of {near:.0f} MB together",
        f"{callers:.0f} MB to and from callers",
        f"{top:.1f} MB that are summed over all ranks",
        f"{fast['seconds']:.1f} s, {100 * fast['efficiency']:.0f} % of it arithmetic",
        f"{100 * late['efficiency']:.0f} % with ten times the latency, "
        f"{100 * narrow['efficiency']:.0f} % with a tenth of the bandwidth",
    ]
