"""How much is measured: the form gives the defaults, the environment may change each."""
import fnmatch
import os

# name: quick, standard, full
DEFAULTS = {
    "PAIRS": (2, 10, 10),                 # rounds, in each of which every engine is measured once
    "SECONDS_EACH": (1, 4, 10),           # a measurement
    "SECONDS_LONG": (1, 10, 60),          # one of writes that is to have checkpoints inside
    "IMAGE_MIB": (512, 768, 4096),        # standard: four times all caches (map 64 MiB, blocks 128 MiB)
    "AGED_MIB": (512, 2048, 4096),        # size of the aged store
    "DEPTH": (100, 1000, 10000),          # the most snapshots of one image
    "DEPTH_WRITES": (100, 1000, 1000),    # before each of them
    "DEPTH_MIB": (128, 512, 1024),        # of that image
    "CLONES": (100, 1000, 1000),          # made in one step
    "IMPORT_MIB": (512, 2048, 2048),      # size of the imported file, half of which is data
    "RESTART_MIB": (64, 1024, 10240),     # rewritten before the kill
}
FORMS = ("quick", "standard", "full")


class Settings:
    def __init__(self, form):
        self.form = form
        for name, values in DEFAULTS.items():
            text = os.environ.get(name)
            if text is not None and (not text.isdigit() or int(text) == 0):
                raise ValueError(f"{name} is a number from 1 on, not '{text}'")
            setattr(self, name.lower(), int(text) if text else values[FORMS.index(form)])
        self.image_bytes = self.image_mib << 20
        self.engines = os.environ.get("ENGINES", "*").split()

    def chosen(self, table):
        """Of a table by engines' names, what ENGINES names."""
        return {name: value for name, value in table.items() if any(fnmatch.fnmatch(name, pattern) for pattern in self.engines)}

    def document(self):
        return {"form": self.form, **{name.lower().replace("_", "-"): getattr(self, name.lower()) for name in DEFAULTS}}
