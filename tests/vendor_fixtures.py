"""Small synthetic files of clinical formats, written from the structure of each format.

No file of a vendor is committed. Every picture is asymmetric (see :func:`glyph`) and every
axis has another length and spacing, so that a swapped or mirrored axis shows.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

INVALID = np.finfo(np.float32).max
PATIENT = "DOE^JANE-4711"
"""Put wherever a format has room for a name; it must never come out."""


def glyph(height: int, width: int) -> np.ndarray:
    """A letter F, bright on dark, as (height, width) uint8: no symmetry hides an error."""
    image = np.full((height, width), 20, np.uint8)
    top, bottom, left = height // 8, height * 7 // 8, width // 4
    image[top:bottom, left : left + max(2, width // 10)] = 220
    image[top : top + max(2, height // 10), left : width * 3 // 4] = 200
    image[height // 2 : height // 2 + max(2, height // 12), left : width // 2] = 180
    return image


def volume(n: int, height: int, width: int) -> np.ndarray:
    """(n, height, width) uint8; slice z carries its number in brightness."""
    return np.stack([np.clip(glyph(height, width).astype(int) + 5 * z, 0, 255) for z in range(n)]).astype(np.uint8)


def write_vol(
    path: Path, *, n: int = 5, height: int = 40, width: int = 32, pattern: int = 3, eye: bytes = b"OS",
    spacing: tuple[float, float, float] = (0.12, 0.0039, 0.0113), distance: float | None = None, layers: int = 3,
) -> np.ndarray:  # fmt: skip
    """Write a Heidelberg ``.vol`` and return its raw reflectivity (n, height, width) float32.

    `pattern` is 1 line, 2 circle, 3 raster, 5 star. `distance` is what the header says when it differs
    from the positions (0 in line scans).
    """
    dz, dy, dx = spacing
    slo_height, slo_width, slo = 30, 36, 0.05
    head_bytes = 256 + 4 * layers * width + 1000  # as in real files, longer than it must be
    header = bytearray(2048)
    struct.pack_into("<12s3I3d2I2dId4sQiI", header, 0, b"HSF-OCT-103", width, n, height, dx,
                     dz if distance is None else distance, dy, slo_width, slo_height, slo, slo, 30, -1.25, eye,
                     130_000_000_000_000_000, pattern, head_bytes)  # fmt: skip
    struct.pack_into("<24s", header, 140, PATIENT.encode())
    struct.pack_into("<d", header, 164, 20_000.0)
    raw = (volume(n, height, width) / 255).astype(np.float32) ** 4
    raw[0, :, 0] = INVALID
    parts = [bytes(header), glyph(slo_height, slo_width).tobytes()]
    for z in range(n):
        scan = bytearray(head_bytes)
        if pattern == 2:
            start, end = (0.4, 0.7), (0.8, 0.7)
        elif pattern == 5:
            angle = np.pi * z / n
            along = 0.5 * np.array([np.cos(angle), np.sin(angle)])
            start, end = tuple(np.array([0.9, 0.75]) - along), tuple(np.array([0.9, 0.75]) + along)
        else:
            start, end = (0.3, 1.2 - dz * z), (0.3 + width * dx, 1.2 - dz * z)
        struct.pack_into("<12sI4d2IfI6f", scan, 0, b"HSF-BS-103", head_bytes, *start, *end, layers, 256, 30.0, 0,
                         *[0.0] * 6)  # fmt: skip
        for layer in range(layers):
            line = np.full(width, 5.0 + 6 * layer + z, np.float32)
            line[:2] = INVALID
            scan[256 + layer * 4 * width : 256 + (layer + 1) * 4 * width] = line.tobytes()
        parts += [bytes(scan), raw[z].tobytes()]
    path.write_bytes(b"".join(parts))
    return raw


def write_heyex_xml(
    folder: Path, *, n: int = 4, height: int = 40, width: int = 32,
    spacing: tuple[float, float, float] = (0.12, 0.0039, 0.0113), eye: str = "L",
) -> tuple[Path, np.ndarray]:  # fmt: skip
    """Write a HEYEX XML export with its pictures; return the XML and the B-scans (n, height, width)."""
    from PIL import Image

    folder.mkdir(exist_ok=True, parents=True)
    dz, dy, dx = spacing
    data = volume(n, height, width)

    def image(kind: str, name: str, shape: tuple[int, int], scale: tuple[float, float], rest: str, lines: str) -> str:
        return f"""<Image><Laterality>{eye}</Laterality><ImageType><Type>{kind}</Type></ImageType>
          <OphthalmicAcquisitionContext><Width>{shape[1]}</Width><Height>{shape[0]}</Height>
          <ScaleX>{scale[1]}</ScaleX><ScaleY>{scale[0]}</ScaleY>{rest}</OphthalmicAcquisitionContext>
          <ImageData><Extension>TIF</Extension><ExamURL>file:///\\\\domain\\share\\{name}</ExamURL></ImageData>{lines}
          </Image>"""

    Image.fromarray(glyph(30, 36)).save(folder / "NIR1.tif")
    images = [image("LOCALIZER", "NIR1.tif", (30, 36), (0.05, 0.05), "<Angle>30</Angle><Focus>0.5</Focus>", "")]
    for z in range(n):
        name = f"B{z + 1}.tif"
        Image.fromarray(data[z]).save(folder / name)
        y = round(1.2 - dz * z, 3)
        place = f"""<ImageQuality>25</ImageQuality><Start><Coord><X>0.3</X><Y>{y}</Y></Coord></Start>
          <End><Coord><X>{0.3 + width * dx:.3f}</X><Y>{y}</Y></Coord></End>"""
        depths = " ".join(["3e+038"] * 2 + [str(7.5 + z)] * (width - 2))
        line = f"""<Segmentation><NumSegmentations>1</NumSegmentations><SegLine><Name>ILM</Name><Manual>false</Manual>
          <Array n="{width}" type="real">{depths}</Array></SegLine></Segmentation>"""
        images.append(image("OCT", name, (height, width), (dy, dx), place, line))
    date = "<Date><Year>2000</Year><Month>01</Month><Day>01</Day></Date>"
    path = folder / "export.xml"
    path.write_text(
        f"""<HEDX><BODY><SWVersion><Version>6.9</Version></SWVersion><Patient><ID>1</ID>
        <PatientID>{PATIENT}</PatientID><LastName>{PATIENT}</LastName><FirstNames>{PATIENT}</FirstNames>
        <Birthdate>{date}</Birthdate><Study><StudyDate>{date}</StudyDate><Series><ID>2</ID><Laterality>{eye}</Laterality>
        <ReferenceSeries><ID>3</ID><ExamDate>{date}</ExamDate></ReferenceSeries><ProgID>4</ProgID>
        <ThicknessGrid><Type>3</Type></ThicknessGrid>{"".join(images)}</Series></Study></Patient></BODY></HEDX>""",
        encoding="latin-1",
    )
    return path, data


def _ufloat16(values: np.ndarray) -> np.ndarray:
    """The unsigned 16-bit float of ``.e2e``: 6 bits of exponent (bias 63), 10 of mantissa."""
    values = np.maximum(values.astype(np.float64), 2.0**-62)
    exponent = np.floor(np.log2(values)).astype(int)
    mantissa = np.clip(np.round((values / 2.0**exponent - 1) * 1024), 0, 1023).astype(int)
    # eyepy takes the lowest bit of the mantissa for its highest.
    mirrored = sum(((mantissa >> bit) & 1) << (9 - bit) for bit in range(10))
    return (((exponent + 63) << 10) | mirrored).astype("<u2")


def write_e2e(path: Path, *, n: int = 3, height: int = 40, width: int = 32, n_series: int = 1,
              backwards: bool = False) -> np.ndarray:  # fmt: skip
    """Write a Heidelberg ``.e2e`` and return its raw reflectivity (n, height, width).

    `backwards` gives the last folder a place that leads back to its own directory.
    """
    raw = ((volume(n, height, width) / 255) ** 4).astype(np.float64)
    items: list[tuple[int, int, int, bytes]] = []  # series, slice, type, content
    for series in range(n_series):
        patient = PATIENT.encode().ljust(131, b"\0")
        items += [(-1, -1, 9, patient), (series, -1, 11, bytes(14) + b"L" + bytes(12))]
        slo = glyph(30, 36)
        enface = struct.pack("<5I", slo.size, 33620481, slo.size, *slo.shape)
        items.append((series, -1, 1073741824, enface + slo.tobytes()))
        for z in range(n):
            meta = struct.pack("<3I4fI3fI2f4I", 0, height, width, -5, 5 - z, 5, 5 - z, 0, 0, 0.0039, 0, 0, 0, 0,
                               0, width, n, z)  # fmt: skip
            meta += struct.pack("<I2fIQI2f12sI4s4s4s4sf12sf", 3, 0, 5 - z, 0, 10**17, 9, 0.8, 0, bytes(12), 9,
                                bytes(4), bytes(4), bytes(4), bytes(4), 1.0, bytes(12), 30.0)  # fmt: skip
            items.append((series, 2 * z, 10004, meta.ljust(428, b"\0")))
            bscan = struct.pack("<5I", raw[z].size * 2, 35652097, raw[z].size, height, width)
            items.append((series, 2 * z, 1073741824, bscan + _ufloat16(raw[z]).tobytes()))
            line = np.full(width, 6.0 + z, np.float32)
            line[:2] = INVALID
            items.append((series, 2 * z, 10019, struct.pack("<5I", 0, 0, 0, width, 0) + line.tobytes()))

    directory = 36 + 52
    start = directory + 52 + 44 * len(items)
    folders, containers = [], []
    for number, (series, slice_id, kind, content) in enumerate(items):
        ids = (1, -1 if series < 0 else 1, series, slice_id)
        place = 0 if backwards and number == len(items) - 1 else start
        length = 0 if place == 0 else len(content)
        folders.append(struct.pack("<4I4i2H2I", 0, place, length, 0, *ids, 0, 0, kind, 0))
        head = struct.pack("<12s5I4i2H2I", b"MDbData", 0, 0, 0, len(content), 0, *ids, 0, 0, kind, 0)
        containers.append(head + content)
        start += 60 + len(content)
    version = struct.pack("<12sI10H", b"CMDb", 100, *[0] * 10)
    header = struct.pack("<12sI10H4I", b"MDbMDir", 100, *[0] * 10, len(items), directory, directory, 0)
    chunk = struct.pack("<12sI10H4I", b"MDbDir", 100, *[0] * 10, len(items), directory, 0, 0)
    path.write_bytes(version + header + chunk + b"".join(folders) + b"".join(containers))
    return raw


def write_dicom(path: Path, data: np.ndarray, *, sop_class: str = "1.2.840.10008.5.1.4.1.1.77.1.5.4",
                modality: str = "OPT", spacing: tuple[float, float] | None = (0.0039, 0.0113),
                between: float | None = None, step: float | None = 10.0, photometric: str | None = None,
                bits: int | None = None, manufacturer: str = "Acme") -> None:  # fmt: skip
    """Write (y, x), (y, x, 3), (z, y, x) or (z, y, x, 3) as DICOM with the name of a patient in it.

    `between` is SpacingBetweenSlices in mm; `step` the distance of the B-scans in pixels of the
    localizer, in which each is 100 pixels long.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    colour = data.ndim > 2 and data.shape[-1] == 3
    n = data.shape[0] if data.ndim - int(colour) == 3 else 1
    height, width = data.shape[-3:-1] if colour else data.shape[-2:]
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.PatientName, ds.PatientID, ds.Modality = PATIENT, PATIENT, modality
    ds.Manufacturer, ds.ManufacturerModelName, ds.ImageLaterality = manufacturer, "Eye 1", "L"
    ds.Rows, ds.Columns, ds.SamplesPerPixel = height, width, 3 if colour else 1
    ds.PhotometricInterpretation = photometric or ("RGB" if colour else "MONOCHROME2")
    if colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = data.dtype.itemsize * 8
    ds.BitsStored = bits or ds.BitsAllocated
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, 0
    if n > 1:
        ds.NumberOfFrames = n
    if spacing is not None:
        measures = Dataset()
        measures.PixelSpacing, measures.SliceThickness = list(spacing), 0.01
        if between is not None:
            measures.SpacingBetweenSlices = between
        if n > 1:
            shared = Dataset()
            shared.PixelMeasuresSequence = [measures]
            ds.SharedFunctionalGroupsSequence = [shared]
        else:
            ds.PixelSpacing = list(spacing)
    if n > 1 and step is not None:
        frames = []
        for z in range(n):
            place, frame = Dataset(), Dataset()
            place.ReferenceCoordinates = [300.0 - step * z, 50.0, 300.0 - step * z, 150.0]
            place.OphthalmicImageOrientation = "LINEAR"
            frame.OphthalmicFrameLocationSequence = [place]
            frames.append(frame)
        ds.PerFrameFunctionalGroupsSequence = frames
    ds.PixelData = np.ascontiguousarray(data).tobytes() + b"\0" * (data.nbytes % 2)
    ds.save_as(path, enforce_file_format=True)


def _topcon(path: Path, chunks: dict[bytes, bytes], kind: bytes) -> None:
    parts = [struct.pack("<4s3sII", b"FOCT", kind, 1, 1)]
    for name, content in chunks.items():
        parts.append(struct.pack("<B", len(name)) + name + struct.pack("<I", len(content)) + content)
    path.write_bytes(b"".join([*parts, b"\0"]))


def _topcon_common(spacing: tuple[float, float, float], n: int, width: int) -> dict[bytes, bytes]:
    dz, dy, dx = spacing
    name = PATIENT.encode()
    return {
        b"@PARAM_SCAN_04": struct.pack("<3I5d2B", 0, 0, 0, dx * width, dz * n, dy * 1000, 0, 0, 0, 0),
        b"@PATIENT_INFO_02": name.ljust(400, b"\0"),
        b"@CAPTURE_INFO_02": struct.pack("<2BI100s6H", 1, 2, 0, b"", 2020, 1, 2, 3, 4, 5).ljust(200, b"\0"),
    }


def write_fds(path: Path, *, n: int = 4, height: int = 40, width: int = 32, mode: int = 2,
              spacing: tuple[float, float, float] = (0.1, 0.0035, 0.012)) -> np.ndarray:  # fmt: skip
    """Write a Topcon ``.fds`` with one scan; return it as (n, height, width) uint16. `mode` 2 is a raster."""
    data = volume(n, height, width).astype("<u2") * 100
    # Stored with the A-scan (x) running fastest, then depth, then slice.
    scan = struct.pack("<B4IBI", mode, width, height, 16, n, 0, data.nbytes) + data.tobytes()
    _topcon(path, {b"@IMG_SCAN_03": scan, **_topcon_common(spacing, n, width)}, b"FDS")
    return data


def write_fda(path: Path, *, n: int = 4, height: int = 40, width: int = 32,
              spacing: tuple[float, float, float] = (0.1, 0.0035, 0.012)) -> np.ndarray:  # fmt: skip
    """Write a Topcon ``.fda`` with one scan of losslessly compressed slices; return it (n, height, width) uint8."""
    import io

    from PIL import Image

    data = volume(n, height, width)
    parts = [struct.pack("<B6I", 2, 0, 0, width, height, n, 0)]
    for plane in data:
        file = io.BytesIO()
        Image.fromarray(plane).save(file, "JPEG2000", irreversible=False)
        parts.append(struct.pack("<i", len(file.getvalue())) + file.getvalue())
    _topcon(path, {b"@IMG_JPEG": b"".join(parts), **_topcon_common(spacing, n, width)}, b"FDA")
    return data


def write_optovue(path: Path, *, n: int = 3, height: int = 40, width: int = 32, scans: int = 2) -> np.ndarray:
    """Write an Optovue ``.OCT`` with the ``.txt`` beside it; return the first scan (n, height, width) float32."""
    data = volume(n, height, width).astype(np.float32)
    # A-scan by A-scan, each from its deepest pixel up: oct-converter turns each slice by 90 degrees.
    columns = np.stack([np.rot90(plane, -1) for plane in data])
    path.write_bytes(np.ascontiguousarray(columns).tobytes() * scans)
    lines = ["Eye Scanned = OS", f"Window Height = {height}"]
    for _ in range(scans):
        lines += [f"Scan Length {width}", f"Scan Usage {n}"]
    lines += [f"Patient = {PATIENT}", "Video Width = 640", "Physical video width = 9.6 mm"]
    path.with_suffix(".txt").write_text("\n".join(lines) + "\n")
    return data


def write_bioptigen(path: Path, *, n: int = 3, height: int = 40, width: int = 32) -> np.ndarray:
    """Write a Bioptigen ``.OCT`` with one rectangular scan; return it as (n, height, width) uint16."""
    data = volume(n, height, width).astype("<u2") * 50

    def field(key: str, value: bytes) -> bytes:
        return struct.pack("<I", len(key)) + key.encode() + struct.pack("<I", len(value)) + value

    def number(key: str, value: int) -> bytes:
        return field(key, struct.pack("<I", value))

    def real(key: str, value: float = 0.0) -> bytes:
        return field(key, struct.pack("<d", value))

    header = struct.pack("<IH", 0x1234, 0x7F) + struct.pack("<I", 11) + b"FRAMEHEADER" + struct.pack("<I", 0)
    header += number("FRAMECOUNT", n) + number("LINECOUNT", width) + number("LINELENGTH", height)
    header += number("SAMPLEFORMAT", 2) + field("DESCRIPTION", PATIENT.encode())
    header += real("XMIN") + real("XMAX") + field("XCAPTION", b"x")
    header += real("YMIN") + real("YMAX") + field("YCAPTION", b"y")
    header += number("SCANTYPE", 1) + b"".join(real(k) for k in ("SCANDEPTH", "SCANLENGTH", "AZSCANLENGTH",
                                                                 "ELSCANLENGTH", "OBJECTDISTANCE", "SCANANGLE"))
    header += number("SCANS", n) + number("FRAMES", 1) + number("DOPPLERFLAG", 0) + field("CONFIG", b"cfg")
    header += struct.pack("<I", 0)
    frames = []
    for plane in data:
        frame = struct.pack("<I", 9) + b"FRAMEDATA" + struct.pack("<I", 0)
        frame += field("FRAMEDATETIME", struct.pack("<8H", 2020, 1, 3, 2, 3, 4, 5, 6)) + real("FRAMETIMESTAMP")
        frame += number("FRAMELINES", width)
        pixels = np.ascontiguousarray(plane.T).tobytes()  # A-scan by A-scan
        frame += struct.pack("<I", 12) + b"FRAMESAMPLES" + struct.pack("<I", len(pixels)) + pixels
        frames.append(frame + struct.pack("<I", 0))
    path.write_bytes(header + b"".join(frames))
    return data
