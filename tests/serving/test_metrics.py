"""The text format of Prometheus."""

from resdet.serving.metrics import Counter, Histogram, gauge


def test_a_counter_has_a_line_per_combination_of_labels() -> None:
    counter = Counter("hits_total", "Hits.", ("route", "status"))
    counter.add("/predict", "200", amount=12_345_678)
    counter.add("/predict", "200")
    counter.add("/", "404")
    assert list(counter.lines()) == [
        "# HELP hits_total Hits.",
        "# TYPE hits_total counter",
        'hits_total{route="/",status="404"} 1',
        'hits_total{route="/predict",status="200"} 12345679',
    ]
    assert list(Counter("all_total", "All.").lines())[-1] == "all_total 0"


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram("wait_seconds", "Waits.", (0.5, 2.0))
    for value in (0.1, 0.5, 0.7, 9.0):
        histogram.add(value)
    assert list(histogram.lines())[2:] == [
        'wait_seconds_bucket{le="0.5"} 2',
        'wait_seconds_bucket{le="2.0"} 3',
        'wait_seconds_bucket{le="+Inf"} 4',
        "wait_seconds_sum 10.300000",
        "wait_seconds_count 4",
    ]


def test_a_gauge_is_a_number() -> None:
    assert list(gauge("ready", "Ready.", True))[-1] == "ready 1"
