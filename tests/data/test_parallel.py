import time

import pytest

from lightning_gan.data.parallel import CHUNK, in_parallel


def test_the_order_is_kept() -> None:
    def slow_at_first(i: int) -> int:
        time.sleep(0.01 if i < 5 else 0)
        return i * i

    for n in (0, 1, CHUNK, 10 * CHUNK + 3):
        assert list(in_parallel(slow_at_first, range(n), "")) == [i * i for i in range(n)]


def test_few_results_wait() -> None:
    done: list[int] = []
    results = in_parallel(done.append, range(100_000), "")
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(done) < 20_000


def test_an_error_arrives() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_parallel(lambda i: 1 // i, range(3), ""))
