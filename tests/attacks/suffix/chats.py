"""What the tests of the GCG engine share besides fixtures."""

from __future__ import annotations

from rfbench.records import Message

TEMPLATE: list[Message] = [{"role": "user", "content": "{request}{optim_str}"}]
INITIAL = " x" * 8
