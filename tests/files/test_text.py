from __future__ import annotations

from rfbench.files.text import did_you_mean


def test_a_close_name_is_suggested_and_else_all_are_listed_in_their_order() -> None:
    assert did_you_mean("prefil", iter(("sampling", "prefill"))) == "did you mean 'prefill'?"
    assert did_you_mean("zzz", iter(("sampling", "prefill"))) == "there are: sampling, prefill"
    assert did_you_mean("zzz", ()) == "there are: none"
