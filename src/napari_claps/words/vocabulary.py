"""The closed vocabularies: modalities, targets, and the words for them.

Ids are used everywhere (command line, files, layers, tests); the words are
what the text encoder reads. Each class text carries the *modality signature*
of CLAPS (arXiv 2509.08618), because the same word means different things in
different modalities.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from napari_claps.errors import PromptError
from napari_claps.types import Modality, Prompt
from napari_claps.words.readable_text import readable_text


class Kind(StrEnum):
    """Shape of a target, which decides how it is prompted."""

    OBJECT = "object"
    """Compact: a box prompts it well."""
    LESION = "lesion"
    """Small and many: needs tiles near the native resolution."""
    TREE = "tree"
    """Vessels: text and the whole field, at high resolution."""
    BAND = "band"
    """Layers across the image: text and the whole field."""

    @property
    def is_whole(self) -> bool:
        """Whether all its pixels are one object that no box can surround: trees and bands."""
        return self in (Kind.TREE, Kind.BAND)


@dataclass(frozen=True)
class ModalityTerms:
    """Name and signature of a modality, and what else people call it."""

    name: str
    signature: str
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """One thing to find.

    `description` is a second wording for the text encoder; `colour` is sRGB;
    `single` is a round thing that an eye has once.
    """

    id: str
    name: str
    synonyms: tuple[str, ...]
    description: str
    colour: tuple[int, int, int]
    modalities: tuple[Modality, ...]
    kind: Kind = Kind.OBJECT
    single: bool = False


MODALITIES: dict[Modality, ModalityTerms] = {
    Modality.CFP: ModalityTerms("colour fundus photograph", "a colour fundus photograph",
                                ("fundus photograph", "fundus photo", "fundus image", "color fundus photograph", "fundus")),
    Modality.UWF: ModalityTerms("ultra-widefield image", "an ultra-widefield retinal image",
                                ("ultra-widefield", "widefield image", "ultra-widefield photograph")),
    Modality.SLO: ModalityTerms("infrared / SLO image", "an infrared scanning laser ophthalmoscopy image",
                                ("infrared image", "infrared", "SLO image", "near-infrared image", "IR image")),
    Modality.FAF: ModalityTerms("fundus autofluorescence", "a fundus autofluorescence image",
                                ("autofluorescence", "autofluorescence image", "FAF image")),
    Modality.FFA: ModalityTerms("fluorescein angiogram", "a fluorescein angiogram",
                                ("fluorescein angiography", "FA", "FFA image", "angiogram")),
    Modality.OCTA: ModalityTerms("OCT angiogram (en face)", "an en-face OCT angiogram",
                                 ("OCT angiogram", "OCT angiography", "OCTA image", "OCT-A")),
    Modality.OCT: ModalityTerms("OCT B-scan", "an OCT B-scan",
                                ("B-scan", "OCT scan", "OCT image", "OCT volume", "OCT slice", "optical coherence tomography")),
}

_M = Modality
_FUNDUS = (_M.CFP, _M.UWF)
_EN_FACE = (_M.CFP, _M.UWF, _M.SLO, _M.FAF, _M.FFA)


def _target(id: str, name: str, synonyms: str, description: str, colour: str,
            modalities: tuple[Modality, ...], kind: Kind = Kind.OBJECT, *, single: bool = False) -> Target:
    rgb = tuple(bytes.fromhex(colour))
    return Target(id, name, tuple(s.strip() for s in synonyms.split(",") if s.strip()), description,
                  (rgb[0], rgb[1], rgb[2]), modalities, kind, single)


TARGETS: dict[str, Target] = {
    t.id: t
    for t in (
        _target("vessel", "retinal vessels", "vessels, blood vessel, blood vessels, vasculature, retinal vessel, vessel tree",
                "the branching tree of blood vessels", "ff3b30", (*_EN_FACE, _M.OCTA), Kind.TREE),
        _target("artery", "retinal arteries", "arteries, arteriole, arterioles, retinal artery",
                "the bright narrow arteries of the vessel tree", "ff2d95", (*_EN_FACE, _M.OCTA), Kind.TREE),
        _target("vein", "retinal veins", "veins, venule, venules, retinal vein",
                "the dark wide veins of the vessel tree", "2f6bff", (*_EN_FACE, _M.OCTA), Kind.TREE),
        _target("optic_disc", "optic disc", "optic disk, disc, disk, optic nerve head, ONH, papilla",
                "the round bright optic nerve head where the vessels meet", "ffd60a", _EN_FACE, single=True),
        _target("optic_cup", "optic cup", "cup, optic disc cup, excavation",
                "the pale central cup inside the optic disc", "ff9f0a", (_M.CFP, _M.UWF), single=True),
        _target("microaneurysm", "microaneurysms", "MA, MAs, microaneurisms, red dot",
                "tiny round dark red dots", "ff6b6b", (*_FUNDUS, _M.FFA), Kind.LESION),
        _target("haemorrhage", "haemorrhages", "hemorrhage, hemorrhages, HE, bleeding, blot haemorrhage, flame haemorrhage",
                "dark red blots of blood", "b00020", _FUNDUS, Kind.LESION),
        _target("hard_exudate", "hard exudates", "EX, exudate, exudates, lipid exudate, lipid",
                "small bright yellow lipid deposits with sharp edges", "fff066", _FUNDUS, Kind.LESION),
        _target("soft_exudate", "soft exudates", "SE, CWS, cotton wool spot, cotton wool spots, cotton-wool spot",
                "pale fluffy cotton wool spots", "d0d4ff", _FUNDUS, Kind.LESION),
        _target("drusen", "drusen", "druse, drusenoid deposit, drusenoid deposits",
                "bumps of deposit under the retinal pigment epithelium", "34c759", (_M.OCT, _M.CFP, _M.UWF)),
        _target("intraretinal_fluid", "intraretinal fluid", "IRF, intraretinal cyst, cyst, cysts, cystoid fluid, cystoid oedema",
                "dark round cysts of fluid within the retina", "32ade6", (_M.OCT,)),
        _target("subretinal_fluid", "subretinal fluid", "SRF, subretinal detachment, neurosensory detachment",
                "a dark pocket of fluid between retina and pigment epithelium", "5e5ce6", (_M.OCT,)),
        _target("pigment_epithelial_detachment", "pigment epithelial detachment", "PED, RPE detachment",
                "a dome of detached retinal pigment epithelium", "bf5af2", (_M.OCT,)),
        _target("shrm", "subretinal hyperreflective material", "SHRM, subretinal hyper-reflective material",
                "bright material between retina and pigment epithelium", "ac8e68", (_M.OCT,)),
        _target("macular_hole", "macular hole", "MH, full-thickness macular hole, FTMH",
                "a full gap through the foveal retina", "ff375f", (_M.OCT,)),
        _target("lamellar_hole", "lamellar hole", "LMH, lamellar macular hole",
                "a partial gap in the inner foveal retina", "ff8fa3", (_M.OCT,)),
        _target("vitreomacular_traction", "vitreomacular traction", "VMT, traction",
                "the vitreous pulling on the macula", "64d2ff", (_M.OCT,)),
        _target("vitreous_detachment", "vitreous detachment", "PVD, posterior vitreous detachment",
                "a thin line of the detached posterior vitreous above the retina", "98c1d9", (_M.OCT,), Kind.BAND),
        _target("geographic_atrophy", "geographic atrophy", "GA, atrophy, RPE atrophy",
                "a sharply bounded area of lost pigment epithelium", "8e8e93", (_M.FAF, _M.CFP, _M.SLO, _M.OCT)),
        _target("foveal_avascular_zone", "foveal avascular zone", "FAZ, avascular zone",
                "the central area without capillaries", "66d4cf", (_M.OCTA, _M.FFA)),
        _target("brvo_area", "area of branch retinal vein occlusion", "BRVO, BRVO area, branch retinal vein occlusion, vein occlusion",
                "the sector affected by a branch vein occlusion", "e67e22", (_M.FFA,)),
        _target("non_perfusion", "capillary non-perfusion", "non-perfusion, nonperfusion, ischaemia, ischemia, capillary dropout, NPA",
                "dark areas without capillary perfusion", "9b59b6", (_M.FFA, _M.OCTA, _M.UWF)),
        _target("retina", "retina", "neurosensory retina, total retina, retinal tissue",
                "the layered band of the neurosensory retina", "c7c7cc", (_M.OCT,), Kind.BAND),
        _target("rpe_bm_complex", "RPE and Bruch's membrane complex", "RPE, RPE-BM, retinal pigment epithelium, Bruch's membrane",
                "the thin bright band of pigment epithelium and Bruch's membrane", "f4a261", (_M.OCT,), Kind.BAND),
    )
}

TEMPLATES: tuple[str, ...] = (
    "{name} in {signature}",
    "{signature} showing {name}",
    "{name} seen in {signature}",
    "the region of {name} in {signature}",
    "{description} in {signature}",
    "{signature} with {description}",
)
"""Wordings of a class text; the first one is used at inference."""

MODALITY_TEMPLATES: tuple[str, ...] = (
    "{signature}",
    "this is {signature}",
    "{signature} of the retina",
    "a retinal image: {signature}",
)
"""Wordings for the modality alone; all of them are averaged when it is detected."""


def parse_modality(text: str) -> Modality:
    """Return the modality with this id.

    Raises
    ------
    PromptError
        If there is none; the message lists all ids.
    """
    try:
        return Modality(text.strip().lower())
    except ValueError:
        known = ", ".join(f"{m} ({terms.name})" for m, terms in MODALITIES.items())
        raise PromptError(f"Unknown modality {text!r}. Known are: {known}.") from None


def named_modality(text: str) -> tuple[str, Modality | None]:
    """Split "drusen in an OCT B-scan" into what to find and where; the second is None when no modality is named.

    Examples
    --------
    >>> named_modality("drusen in an OCT B-scan")
    ('drusen', <Modality.OCT: 'oct'>)
    >>> named_modality("bright spots in the macula")
    ('bright spots in the macula', None)
    """
    words = " ".join(text.split())
    for match in re.finditer(r" (?:in|on) (?:an? |the )?", words):
        modality = _MODALITY_BY_WORD.get(_normal(words[match.end():].rstrip(". ")))
        if modality is not None and match.start():
            return words[:match.start()], modality
    return words, None


def class_text(target: Target, modality: Modality, template: str = TEMPLATES[0]) -> str:
    """Text of a target with the signature of the modality."""
    return template.format(name=target.name, description=target.description,
                           signature=MODALITIES[modality].signature)


def find_target(text: str) -> Target | None:
    """Return the target with this id, name or synonym (any case, with or without an article), or None."""
    return _BY_WORD.get(re.sub("^(an?|the) ", "", _normal(text)))


def suggest_targets(text: str, among: Iterable[str] = ()) -> list[str]:
    """Return ids of the targets whose words look like `text`, best first."""
    allowed = set(among) or set(TARGETS)
    close = difflib.get_close_matches(_normal(text), list(_BY_WORD), n=6, cutoff=0.6)
    ids = dict.fromkeys(_BY_WORD[word].id for word in close)
    return [i for i in ids if i in allowed]


def targets_of(modality: Modality) -> list[Target]:
    """Targets that exist in the modality, in the order of the vocabulary."""
    return [t for t in TARGETS.values() if modality in t.modalities]


def kind_of(target: str | None) -> Kind:
    """The kind of a target; free text, which has none, is taken for an object."""
    return TARGETS[target].kind if target in TARGETS else Kind.OBJECT


def make_prompt(text: str, modality: Modality) -> Prompt:
    """Turn what the user typed into the text that is sent.

    An id, a name or a synonym becomes the class text of that target, also with
    the right modality behind it ("drusen in an OCT B-scan"); other text is free
    text, to which the signature is added. One unknown word is taken as a
    misspelt target, not as free text.

    Raises
    ------
    PromptError
        If the text cannot be read, looks like a misspelt target, or names
        another modality, or a target that does not exist in this one.
    """
    signature = MODALITIES[modality].signature
    here = f"Targets in {signature}: {', '.join(t.id for t in targets_of(modality))}."
    typed = readable_text(text, examples=", ".join(t.id for t in targets_of(modality)[:3]))
    words, named = named_modality(typed)
    target = find_target(words)
    if target is not None and modality not in target.modalities:
        where = ", ".join(MODALITIES[m].name for m in target.modalities)
        instead = [i for i in COUNTERPARTS.get(target.id, ()) if modality in TARGETS[i].modalities]
        hint = f" Did you mean {' or '.join(instead)}?" if instead else ""
        raise PromptError(f"{target.id} does not exist in {signature}; it is seen in: {where}.{hint} {here} "
                          "If the modality is wrong, choose it yourself.")
    if named not in (None, modality):
        raise PromptError(f"The text {typed!r} is about {MODALITIES[named].signature}, but it would be sent for "
                          f"{signature}. Leave the modality out of the text, or choose {named} as modality.")
    if target is not None:
        return Prompt(label=target.id, text=class_text(target, modality), target=target.id)
    close = suggest_targets(words)
    if close or " " not in words:
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise PromptError(f"Unknown target {typed!r}.{hint} {here} Free text needs at least two words.")
    return Prompt(label=typed, text=words if signature in words else f"{words} in {signature}")


def wordings(prompt: Prompt, modality: Modality) -> tuple[str, ...]:
    """All wordings of a target; one for free text, and for a target that is asked for in words of somebody's own."""
    if prompt.target is None:
        return (prompt.text,)
    known = tuple(class_text(TARGETS[prompt.target], modality, template) for template in TEMPLATES)
    return known if prompt.text in known else (prompt.text,)


COUNTERPARTS: dict[str, tuple[str, ...]] = {
    "optic_cup": ("optic_disc",),
    "microaneurysm": ("intraretinal_fluid",),
    "hard_exudate": ("intraretinal_fluid",),
    "intraretinal_fluid": ("hard_exudate",),
    "pigment_epithelial_detachment": ("drusen",),
    "drusen": ("geographic_atrophy",),
    "soft_exudate": ("non_perfusion",),
    "non_perfusion": ("soft_exudate",),
    "brvo_area": ("haemorrhage", "non_perfusion"),
    "rpe_bm_complex": ("geographic_atrophy",),
}
"""What the same disease or structure shows where the target itself is not seen; a suggestion, never used unasked."""

def _normal(text: str) -> str:
    return " ".join(text.replace("_", " ").lower().split())


_MODALITY_BY_WORD: dict[str, Modality] = {
    _normal(re.sub("^an? ", "", word)): modality for modality, terms in MODALITIES.items()
    for word in (modality.value, terms.name, terms.signature, *terms.synonyms)
}

_BY_WORD: dict[str, Target] = {
    _normal(word): target for target in TARGETS.values() for word in (target.id, target.name, *target.synonyms)
}
