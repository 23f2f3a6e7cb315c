"""Words of the built-in catalog: kinds of products, what they can be like, and their options."""

from __future__ import annotations

from dataclasses import dataclass

TRAITS: dict[str, tuple[tuple[str, str], ...]] = {
    "hair": (
        *(("sulfate free", "adj"), ("paraben free", "adj"), ("cruelty free", "adj")),
        *(("color safe", "adj"), ("leave in", "adj"), ("argan oil", "with"), ("tea tree", "with")),
        *(("coconut oil", "with"), ("biotin complex", "with"), ("damaged hair", "for")),
        *(("dry scalp", "for"), ("curly hair", "for"), ("fine hair", "for")),
    ),
    "skin": (
        *(("fragrance free", "adj"), ("non greasy", "adj"), ("cruelty free", "adj")),
        *(("alcohol free", "adj"), ("dermatologist tested", "adj"), ("anti aging", "adj")),
        *(("shea butter", "with"), ("aloe vera", "with"), ("hyaluronic acid", "with")),
        *(("vitamin c", "with"), ("sensitive skin", "for"), ("dry skin", "for")),
        *(("fine lines", "for"),),
    ),
    "makeup": (
        *(("long lasting", "adj"), ("cruelty free", "adj"), ("highly pigmented", "adj")),
        *(("quick drying", "adj"), ("travel size", "adj"), ("easy apply", "adj")),
        *(("non toxic", "adj"), ("matte finish", "with"), ("storage pouch", "with")),
        *(("sensitive eyes", "for"), ("daily use", "for")),
    ),
    "furniture": (
        *(("easy assemble", "adj"), ("space saving", "adj"), ("heavy duty", "adj")),
        *(("mid century", "adj"), ("height adjustable", "adj"), ("fully assembled", "adj")),
        *(("solid wood", "with"), ("steel frame", "with"), ("tempered glass", "with")),
        *(("non slip feet", "with"), ("living room", "for"), ("home office", "for")),
        *(("small rooms", "for"),),
    ),
    "textile": (
        *(("machine washable", "adj"), ("fade resistant", "adj"), ("hand woven", "adj")),
        *(("super soft", "adj"), ("stain resistant", "adj"), ("pet friendly", "adj")),
        *(("memory foam", "with"), ("anti slip backing", "with"), ("hidden zipper", "with")),
        *(("living room", "for"), ("guest room", "for"), ("nursery", "for")),
    ),
    "decor": (
        *(("easy install", "adj"), ("hand painted", "adj"), ("dishwasher safe", "adj")),
        *(("lead free", "adj"), ("eco friendly", "adj"), ("rust proof", "adj")),
        *(("bamboo lid", "with"), ("metal handles", "with"), ("drainage holes", "with")),
        *(("dining room", "for"), ("entry way", "for"), ("gift giving", "for")),
    ),
    "snack": (
        *(("gluten free", "adj"), ("sugar free", "adj"), ("keto friendly", "adj")),
        *(("non gmo", "adj"), ("low sodium", "adj"), ("individually wrapped", "adj")),
        *(("dairy free", "adj"), ("high protein", "adj"), ("sea salt", "with")),
        *(("real fruit", "with"), ("lunch boxes", "for"), ("road trips", "for")),
    ),
    "drink": (
        *(("caffeine free", "adj"), ("fair trade", "adj"), ("usda organic", "adj")),
        *(("small batch", "adj"), ("slow roasted", "adj"), ("zero sugar", "adj")),
        *(("kosher certified", "adj"), ("natural flavors", "with"), ("resealable bag", "with")),
        *(("cold brew", "for"), ("early mornings", "for"), ("gift baskets", "for")),
    ),
    "gadget": (
        *(("fast charging", "adj"), ("water resistant", "adj"), ("plug play", "adj")),
        *(("ultra slim", "adj"), ("noise cancelling", "adj"), ("energy efficient", "adj")),
        *(("usb port", "with"), ("carrying case", "with"), ("touch control", "with")),
        *(("stereo sound", "with"), ("remote control", "with"), ("home theater", "for")),
        *(("video calls", "for"), ("outdoor use", "for")),
    ),
    "accessory": (
        *(("scratch resistant", "adj"), ("heavy duty", "adj"), ("tangle free", "adj")),
        *(("gold plated", "adj"), ("quick release", "adj"), ("shock proof", "adj")),
        *(("aluminum alloy", "with"), ("carbon fiber", "with"), ("braided nylon", "with")),
        *(("raised edges", "with"), ("desk setups", "for"), ("car travel", "for")),
    ),
    "top": (
        *(("moisture wicking", "adj"), ("machine washable", "adj"), ("loose fit", "adj")),
        *(("slim fit", "adj"), ("quick drying", "adj"), ("wrinkle free", "adj")),
        *(("long sleeves", "with"), ("button closure", "with"), ("raglan seams", "with")),
        *(("organic cotton", "with"), ("daily wear", "for"), ("gym workouts", "for")),
        *(("office work", "for"),),
    ),
    "bottom": (
        *(("moisture wicking", "adj"), ("machine washable", "adj"), ("loose fit", "adj")),
        *(("high waisted", "adj"), ("quick drying", "adj"), ("four way stretch", "adj")),
        *(("elastic waist", "with"), ("drawstring closure", "with"), ("deep pockets", "with")),
        *(("organic cotton", "with"), ("daily wear", "for"), ("gym workouts", "for")),
        *(("summer holidays", "for"),),
    ),
    "footwear": (
        *(("slip resistant", "adj"), ("light weight", "adj"), ("wide fit", "adj")),
        *(("hand stitched", "adj"), ("water proof", "adj"), ("rubber sole", "with")),
        *(("arch support", "with"), ("memory foam", "with"), ("ankle strap", "with")),
        *(("long walks", "for"), ("beach days", "for"), ("cold weather", "for")),
    ),
}
"""Pool -> (attribute, how it stands to the product: "adj", "with" or "for")."""

OPTION_VALUES: dict[str, tuple[str, ...]] = {
    "color": tuple(
        "black,white,navy,olive,burgundy,teal,mustard,lavender,charcoal,ivory,coral,sage,"
        "rust,turquoise,champagne,plum".split(",")
    ),
    "scent": tuple(
        "lavender mint,citrus zest,vanilla bean,rose water,sandalwood,ocean breeze,green apple,"
        "jasmine,eucalyptus,unscented".split(",")
    ),
    "flavor": tuple(
        "original,honey mustard,sea salt caramel,maple pecan,chili lime,dark chocolate,"
        "toasted coconut,cinnamon spice,wild berry,smoky barbecue".split(",")
    ),
    "volume": tuple("2 fl oz,4 fl oz,8.5 fl oz,12 fl oz,16.9 fl oz,32 fl oz".split(",")),
    "weight": tuple(
        "6 ounce,12 ounce,1.5 pound,3 pound,8 ounce (pack of 4),12 ounce (pack of 6)".split(",")
    ),
    "clothing size": tuple("small,medium,large,x-large,xx-large,3x-large".split(",")),
    "shoe size": tuple("6,6.5,7,8,8.5,9,10,11.5,12".split(",")),
    "room size": tuple("2 x 3 ft,3 x 5 ft,4 x 6 ft,5 x 8 ft,8 x 10 ft,9 x 12 ft".split(",")),
    "bed size": tuple("twin,twin xl,full,queen,king,california king".split(",")),
    "furniture size": tuple("18 inch,24 inch,30 inch,36 inch,48 inch,60 inch".split(",")),
    "length": tuple("1.5 feet,3 feet,6 feet,10 feet,15 feet,25 feet".split(",")),
    "capacity": tuple("5000mah,10000mah,20000mah,26800mah".split(",")),
    "set size": tuple("single,set of 2,set of 4,set of 6,set of 8,set of 12".split(",")),
    "model": tuple("mini,standard,plus,pro,max,ultra".split(",")),
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
            Kind(
                "mattress topper", "mattress toppers", "Textiles", "textile", ("bed size",), 48
            ),
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
            Kind("cargo shorts", "shorts", "Bottoms", "bottom", ("color", "clothing size"), 14, True),
            Kind("midi skirt", "skirts", "Bottoms", "bottom", ("color", "clothing size"), 17),
            Kind("running shoes", "shoes", "Footwear", "footwear", ("color", "shoe size"), 32, True),
            Kind("sandals", "sandals", "Footwear", "footwear", ("color", "shoe size"), 16, True),
            Kind("ankle boots", "boots", "Footwear", "footwear", ("color", "shoe size"), 38, True),
            Kind("house slippers", "slippers", "Footwear", "footwear", ("color", "shoe size"), 11, True),
        ),
    ),
}
"""Department -> (head of its category path, its kinds)."""

BRAND_STARTS = "Alt Bel Cor Dov Elm Fen Gal Hol Ith Jor Kel Lun Mar Nor Oak Pel Quin Rav Sel".split()
BRAND_ENDS = "ano berg dale elle fora gate hurst ique lark mont nova ora ridge sun tide vale".split()

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
    "damaged dry curly fine sensitive daily anti hidden real natural resealable solid tempered non "
    "slip matte small early raised braided touch remote outdoor organic long elastic cold raglan deep".split()
)
KIND_ADJECTIVES = frozenset("portable loose running charging".split())
"""Words of kinds and attributes that are not nouns; every other word that a title holds is one."""
