"""P5 (Geng et al., "Recommendation as Language Processing", RecSys 2022): next item over tokens.

Items are a few codes each, and sentences about users are the click sequences of a second prepared folder, whose items
are tokens: words and codes. Any training of this package learns them; a beam search ranks items by what it learnt.
"""
