"""Data of many clients, stacked: generators that need no download.

Sources: secfad.data.synthetic.
"""

from secfad.data.synthetic import ClientArrays as ClientArrays
from secfad.data.synthetic import SyntheticData as SyntheticData
from secfad.data.synthetic import synthetic as synthetic
