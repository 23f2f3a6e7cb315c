"""Words of the built-in catalog: kinds of products, what they can be like, and their options."""

from __future__ import annotations

from dataclasses import dataclass


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


def _traits(adjectives: str, parts: str, uses: str) -> tuple[tuple[str, str], ...]:
    return (
        *((name, "adj") for name in _list(adjectives)),
        *((name, "with") for name in _list(parts)),
        *((name, "for") for name in _list(uses)),
    )


TRAITS = {
    "hair": _traits(
        "sulfate free, paraben free, cruelty free, color safe, leave in",
        "argan oil, tea tree, coconut oil, biotin complex",
        "damaged hair, dry scalp, curly hair, fine hair",
    ),
    "skin": _traits(
        "fragrance free, non greasy, cruelty free, alcohol free, dermatologist tested, anti aging",
        "shea butter, aloe vera, hyaluronic acid, vitamin c",
        "sensitive skin, dry skin, fine lines",
    ),
    "makeup": _traits(
        "long lasting, cruelty free, highly pigmented, quick drying, travel size, easy apply, "
        "non toxic",
        "matte finish, storage pouch",
        "sensitive eyes, daily use",
    ),
    "furniture": _traits(
        "easy assemble, space saving, heavy duty, mid century, height adjustable, fully assembled",
        "solid wood, steel frame, tempered glass, non slip feet",
        "living room, home office, small rooms",
    ),
    "textile": _traits(
        "machine washable, fade resistant, hand woven, super soft, stain resistant, pet friendly",
        "memory foam, anti slip backing, hidden zipper",
        "living room, guest room, nursery",
    ),
    "decor": _traits(
        "easy install, hand painted, dishwasher safe, lead free, eco friendly, rust proof",
        "bamboo lid, metal handles, glazed rim",
        "dining room, entry way, gift giving",
    ),
    "snack": _traits(
        "gluten free, sugar free, keto friendly, non gmo, low sodium, individually wrapped, "
        "dairy free, high protein",
        "sea salt, real fruit",
        "lunch boxes, road trips",
    ),
    "drink": _traits(
        "caffeine free, fair trade, usda organic, small batch, slow roasted, zero sugar, kosher "
        "certified",
        "natural flavors, resealable bag",
        "cold brew, early mornings, gift baskets",
    ),
    "gadget": _traits(
        "fast charging, water resistant, plug play, ultra slim, noise cancelling, energy efficient",
        "usb port, carrying case, touch control, stereo sound, remote control",
        "home theater, video calls, outdoor use",
    ),
    "accessory": _traits(
        "scratch resistant, heavy duty, tangle free, gold plated, quick release, shock proof",
        "aluminum alloy, carbon fiber, braided nylon, raised edges",
        "desk setups, car travel",
    ),
    "top": _traits(
        "moisture wicking, machine washable, loose fit, slim fit, quick drying, wrinkle free",
        "long sleeves, button closure, raglan seams, organic cotton",
        "daily wear, gym workouts, office work",
    ),
    "bottom": _traits(
        "moisture wicking, machine washable, loose fit, high waisted, quick drying, four way "
        "stretch",
        "elastic waist, drawstring closure, deep pockets, organic cotton",
        "daily wear, gym workouts, summer holidays",
    ),
    "footwear": _traits(
        "slip resistant, light weight, wide fit, hand stitched, water proof",
        "rubber sole, arch support, memory foam, ankle strap",
        "long walks, beach days, cold weather",
    ),
}
"""Pool -> (attribute, how it stands to the product: "adj", "with" or "for")."""

OPTION_VALUES = {
    "color": _list(
        "black, white, navy, olive, burgundy, teal, mustard, lavender, charcoal, ivory, coral, "
        "sage, rust, turquoise, champagne, plum"
    ),
    "scent": _list(
        "lavender mint, citrus zest, vanilla bean, rose water, sandalwood, ocean breeze, green "
        "apple, jasmine, eucalyptus, unscented"
    ),
    "flavor": _list(
        "original, honey mustard, sea salt caramel, maple pecan, chili lime, dark chocolate, "
        "toasted coconut, cinnamon spice, wild berry, smoky barbecue"
    ),
    "volume": _list("2 fl oz, 4 fl oz, 8.5 fl oz, 12 fl oz, 16.9 fl oz, 32 fl oz"),
    "weight": _list(
        "6 ounce, 12 ounce, 1.5 pound, 3 pound, 8 ounce (pack of 4), 12 ounce (pack of 6)"
    ),
    "clothing size": _list("small, medium, large, x-large, xx-large, 3x-large"),
    "shoe size": _list("6, 6.5, 7, 8, 8.5, 9, 10, 11.5, 12"),
    "room size": _list("2 x 3 ft, 3 x 5 ft, 4 x 6 ft, 5 x 8 ft, 8 x 10 ft, 9 x 12 ft"),
    "bed size": _list("twin, twin xl, full, queen, king, california king"),
    "furniture size": _list("18 inch, 24 inch, 30 inch, 36 inch, 48 inch, 60 inch"),
    "length": _list("1.5 feet, 3 feet, 6 feet, 10 feet, 15 feet, 25 feet"),
    "capacity": _list("5000mah, 10000mah, 20000mah, 26800mah"),
    "set size": _list("single, set of 2, set of 4, set of 6, set of 8, set of 12"),
    "model": _list("mini, standard, plus, pro, max, ultra"),
}
"""Pool -> the values that a product's option can take."""

OPTION_NAMES = {
    "scent": "scent",
    "flavor": "flavor name",
    "volume": "size",
    "weight": "size",
    "clothing size": "size",
    "shoe size": "size",
    "room size": "size",
    "bed size": "size",
    "furniture size": "size",
    "length": "length",
    "capacity": "capacity",
    "set size": "item package quantity",
    "model": "style",
    "color": "color",
}
"""Pool -> the name that the shop gives the option."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of product.

    Attributes:
        name: What a shopper calls it, in the singular.
        query: The search that collects it, in the plural.
        section: Its place below the department in the category path.
        traits: Pool of its attributes.
        options: Pools of its options.
        cheapest: Lowest price in dollars; the highest is four times as much.
        countless: Whether the name is a plural or a mass noun, and takes "some" for an article.
    """

    name: str
    query: str
    section: str
    traits: str
    options: tuple[str, ...]
    cheapest: float
    countless: bool = False


DEPARTMENTS: dict[str, tuple[str, tuple[Kind, ...]]] = {
    "beauty": (
        "Beauty & Personal Care",
        (
            Kind("shampoo", "shampoos", "Hair Care", "hair", ("scent", "volume"), 6),
            Kind("hair mask", "hair masks", "Hair Care", "hair", ("scent", "volume"), 9),
            Kind("hair serum", "hair serums", "Hair Care", "hair", ("volume",), 11),
            Kind("body lotion", "body lotions", "Skin Care", "skin", ("scent", "volume"), 7),
            Kind("face cream", "face creams", "Skin Care", "skin", ("volume",), 12),
            Kind("hand soap", "hand soaps", "Skin Care", "skin", ("scent", "volume"), 4),
            Kind("lip balm", "lip balms", "Skin Care", "skin", ("flavor", "set size"), 3),
            Kind("nail polish", "nail polishes", "Makeup", "makeup", ("color", "set size"), 5),
            Kind("eyeshadow palette", "eyeshadow palettes", "Makeup", "makeup", ("color",), 10),
            Kind("makeup brush", "makeup brushes", "Makeup", "makeup", ("color", "set size"), 8),
            Kind("lipstick", "lipsticks", "Makeup", "makeup", ("color", "model"), 6),
        ),
    ),
    "garden": (
        "Home & Kitchen",
        (
            Kind("bookshelf", "shelves", "Furniture", "furniture", ("color", "furniture size"), 45),
            Kind("bar stool", "bar stools", "Furniture", "furniture", ("color", "set size"), 38),
            Kind("end table", "end tables", "Furniture", "furniture", ("furniture size",), 40),
            Kind(
                "writing desk", "desks", "Furniture", "furniture", ("color", "furniture size"), 60
            ),
            Kind("area rug", "area rugs", "Textiles", "textile", ("color", "room size"), 30),
            Kind("throw pillow", "throw pillows", "Textiles", "textile", ("color", "set size"), 9),
            Kind(
                "curtain panel", "curtains", "Textiles", "textile", ("color", "furniture size"), 14
            ),
            Kind("mattress topper", "mattress toppers", "Textiles", "textile", ("bed size",), 48),
            Kind("coffee mug", "mugs", "Decor", "decor", ("color", "set size"), 7),
            Kind("planter pot", "planters", "Decor", "decor", ("color", "furniture size"), 11),
            Kind("wall mirror", "mirrors", "Decor", "decor", ("color", "furniture size"), 25),
        ),
    ),
    "grocery": (
        "Grocery & Gourmet Food",
        (
            Kind("trail mix", "trail mixes", "Snacks", "snack", ("flavor", "weight"), 6, True),
            Kind("beef jerky", "jerky", "Snacks", "snack", ("flavor", "weight"), 8, True),
            Kind("granola bars", "granola bars", "Snacks", "snack", ("flavor",), 5, True),
            Kind("potato chips", "chips", "Snacks", "snack", ("flavor", "weight"), 4, True),
            Kind("rice crackers", "crackers", "Snacks", "snack", ("flavor", "weight"), 4, True),
            Kind("popcorn", "popcorn", "Snacks", "snack", ("flavor", "weight"), 5, True),
            Kind("ground coffee", "coffee", "Drinks", "drink", ("flavor", "weight"), 9, True),
            Kind("loose leaf tea", "tea", "Drinks", "drink", ("flavor", "weight"), 7, True),
            Kind("cocoa powder", "cocoa", "Drinks", "drink", ("flavor", "weight"), 8, True),
            Kind("drink mix", "drink mixes", "Drinks", "drink", ("flavor", "set size"), 6),
        ),
    ),
    "electronics": (
        "Electronics",
        (
            Kind("bluetooth speaker", "speakers", "Audio", "gadget", ("color", "model"), 22),
            Kind("soundbar", "soundbars", "Audio", "gadget", ("color", "furniture size"), 55),
            Kind("earbuds", "headphones", "Audio", "gadget", ("color", "model"), 18, True),
            Kind("webcam", "webcams", "Video", "gadget", ("color", "model"), 24),
            Kind("portable projector", "projectors", "Video", "gadget", ("color", "model"), 70),
            Kind("power bank", "power banks", "Power", "gadget", ("color", "capacity"), 16),
            Kind("phone case", "phone cases", "Accessories", "accessory", ("color", "model"), 8),
            Kind("hdmi cable", "cables", "Accessories", "accessory", ("color", "length"), 6),
            Kind("charging cable", "cables", "Accessories", "accessory", ("color", "length"), 5),
            Kind("tablet stand", "stands", "Accessories", "accessory", ("color", "model"), 13),
            Kind("watch band", "watch bands", "Accessories", "accessory", ("color", "model"), 9),
        ),
    ),
    "fashion": (
        "Clothing, Shoes & Jewelry",
        (
            Kind("t-shirt", "t-shirts", "Tops", "top", ("color", "clothing size"), 9),
            Kind("hoodie", "hoodies", "Tops", "top", ("color", "clothing size"), 19),
            Kind("rain jacket", "jackets", "Tops", "top", ("color", "clothing size"), 28),
            Kind("cardigan", "sweaters", "Tops", "top", ("color", "clothing size"), 21),
            Kind("yoga pants", "pants", "Bottoms", "bottom", ("color", "clothing size"), 15, True),
            Kind(
                "cargo shorts", "shorts", "Bottoms", "bottom", ("color", "clothing size"), 14, True
            ),
            Kind("midi skirt", "skirts", "Bottoms", "bottom", ("color", "clothing size"), 17),
            Kind(
                "running shoes", "shoes", "Footwear", "footwear", ("color", "shoe size"), 32, True
            ),
            Kind("sandals", "sandals", "Footwear", "footwear", ("color", "shoe size"), 16, True),
            Kind("ankle boots", "boots", "Footwear", "footwear", ("color", "shoe size"), 38, True),
            Kind(
                "house slippers",
                "slippers",
                "Footwear",
                "footwear",
                ("color", "shoe size"),
                11,
                True,
            ),
        ),
    ),
}
"""Department -> (head of its category path, its kinds)."""

BRAND_STARTS = _list(
    "Alt, Bel, Cor, Dov, Elm, Fen, Gal, Hol, Ith, Jor, Kel, Lun, Mar, Nor, Oak, Pel, Quin, Rav, Sel"
)
BRAND_ENDS = _list(
    "ano, berg, dale, elle, fora, gate, hurst, ique, lark, mont, nova, ora, ridge, sun, tide, vale"
)

BODY_LINES = {
    "adj": (
        "We made it {trait}, and our testers noticed.",
        "Truly {trait}: tried for six months before it went on sale.",
        "{this} {verb} {trait} by design.",
        "Looking for something {trait}? Here you are.",
    ),
    "with": (
        "Comes with {trait}, as our buyers asked for.",
        "The difference lies in the {trait}.",
        "Built around {trait} from the first sketch on.",
        "The {trait} comes at no extra cost.",
    ),
    "for": (
        "Made for {trait} above all else.",
        "A fine choice for {trait}.",
        "People buy it for {trait} and come back for more.",
        "We had {trait} in mind all along.",
    ),
}
"""How a line of a product's page mentions an attribute."""

FILLERS = (
    "Packed in a plain box that can be recycled.",
    "Our family workshop answers every letter within two days.",
    "Return it within thirty days if it is not what you hoped for.",
    "A short guide comes in five languages.",
    "Each piece is checked by hand before it leaves us.",
    "Shown here in daylight; screens may differ a little.",
    "Ships on the next working day.",
)

OPENERS = (
    "{this} from {brand} will do what you expect.",
    "{brand} has made this since the first year of the shop.",
    "From the {kind} makers at {brand}.",
    "Nothing fancy, just good work by {brand}.",
)

TRAIT_ADJECTIVES = frozenset(
    _list(
        "anti, braided, cold, curly, daily, damaged, deep, dry, early, elastic, fine, hidden, "
        "long, matte, natural, non, organic, outdoor, raglan, raised, real, remote, resealable, "
        "sensitive, slip, small, solid, tempered, touch"
    )
)
KIND_ADJECTIVES = frozenset({"portable", "loose", "running", "charging"})
"""Words of kinds and attributes that are not nouns; every other word that a title holds is one."""
