"""What an agent is told about the shop, with one worked purchase."""

from __future__ import annotations

from eto_gym.prompt import Prompt

INSTRUCTION = """\
You are shopping on a website for somebody else. The first page shows what they asked for. Find a
product that fits, choose the options that they named, keep within their price, and buy it.

There are two actions:
search[words] - look for products; use the few words that describe the thing best.
click[name] - press what the page shows by that name: a product's code, an option's value, or one
of the buttons Back to Search, < Prev, Next >, Description, Features, Reviews, Buy Now.

You can only press what the current page shows; any other action changes nothing and costs a turn.
The parts of a page are separated by [SEP]. The visit ends when you press Buy Now. Your score is
the share of the wanted properties, options and price limit that your purchase meets, so set the
options first. You have ten turns.

Reply with exactly two lines, your reasoning and then one action:
Thought: ...
Action: ..."""

_HEAD = (
    "Instruction: [SEP] i need a water proof lantern for camping, in green, size small, and price "
    "lower than 40.00 dollars [SEP] Back to Search"
)
_ITEM = (
    f"{_HEAD} [SEP] < Prev [SEP] color [SEP] green [SEP] orange [SEP] size [SEP] small [SEP] "
    "large [SEP] Tarnmoor Lantern for Camping [SEP] Price: $31.5 [SEP] Rating: N.A. [SEP] "
    "Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
)

EXAMPLE = (
    "WebShop [SEP] Instruction: [SEP] i need a water proof lantern for camping, in green, size "
    "small, and price lower than 40.00 dollars [SEP] Search",
    "Thought: The thing itself is a lantern for camping, and it has to be water proof. I search "
    "for that.\nAction: search[water proof camping lantern]",
    f"Observation:\n{_HEAD} [SEP] Page 1 (Total results: 2) [SEP] Next > [SEP] B0QX71LMPA [SEP] "
    "Ostrel Water Proof Lantern [SEP] $58.0 [SEP] B0C4TTWK90 [SEP] Tarnmoor Lantern for Camping "
    "[SEP] $31.5",
    "Thought: The first lantern costs more than 40 dollars. The second is cheap enough, but its "
    "title says nothing about water. I open it to find out.\nAction: click[b0c4ttwk90]",
    f"Observation:\n{_ITEM}",
    "Thought: Green and small can both be had here. Whether it is water proof may stand among the "
    "features.\nAction: click[features]",
    f"Observation:\n{_HEAD} [SEP] < Prev [SEP] Water proof down to one metre. [SEP] Runs for "
    "thirty hours.",
    "Thought: It is water proof, so this is the one. I go back to choose the options.\n"
    "Action: click[< prev]",
    f"Observation:\n{_ITEM}",
    "Thought: I set the colour first.\nAction: click[green]",
    f"Observation:\n{_ITEM}",
    "Thought: Now the size.\nAction: click[small]",
    f"Observation:\n{_ITEM}",
    "Thought: Colour, size and price are as asked. I buy it.\nAction: click[buy now]",
)

PROMPT = Prompt(INSTRUCTION, EXAMPLE, observation_prefix="Observation:\n")
