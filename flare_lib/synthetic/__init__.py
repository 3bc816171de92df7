"""Persons that never were: structures, their deformation, bodies, phantoms, and the grey values painted over them."""
