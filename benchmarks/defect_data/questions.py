# ruff: noqa: RUF001
"""What is asked about a picture in other words, in other languages, and what else could be asked
about it.
"""

from __future__ import annotations

import numpy as np

# Rewordings share no long run of words with the families' own questions: only the picture can give
# the leak away.
REWORDED = {
    "digits": (
        "Divide the number written in this picture by twenty-three and tell me what is left over.",
        "Take all the digits you see as one long number. Which remainder does it leave modulo 23?",
        "What do you get when the handwritten number is reduced mod 23?",
        "Looking at the handwriting from left to right, find the number and reduce it modulo 23.",
        "Suppose you share that many marbles among 23 children; how many marbles stay in the bag?",
    ),
    "charts": (
        (
            "Starting at the left, multiply the first two heights, add the third, multiply by the"
            " fourth and so on, modulo 23."
        ),
        (
            "Alternate multiplication and addition over the columns of this diagram. What is the"
            " outcome mod 23?"
        ),
        (
            "Give the residue modulo twenty-three that you reach by combining the columns with"
            " times, plus, times, ..."
        ),
        (
            "How much is left over after dividing by 23 when the heights are combined by x and + in"
            " turn?"
        ),
        (
            "Read off every column, chain the values with times and plus alternately, and reduce"
            " the result mod 23."
        ),
    ),
    "arithmetic": (
        "Ignore the precedence of operators: what value modulo 23 does this handwritten sum have?",
        "Evaluate what is written here step by step, without precedence, and reduce it mod 23.",
        (
            "Somebody wrote down a calculation. Carry it out in reading order and divide by 23;"
            " what is left?"
        ),
        (
            "Which residue modulo twenty-three does the written calculation give when done in"
            " reading order?"
        ),
        (
            "Do the operations one after the other as they appear, then state the rest after"
            " division by 23."
        ),
    ),
}
OTHER = {  # asked of the same picture: `count` of its parts, or the `first` of them
    "digits": {
        "count": "how many digits are on the strip ?",
        "first": "which digit stands at the very left of the strip ?",
    },
    "charts": {
        "count": "how many bars does the chart have ?",
        "first": "how high is the bar at the very left ?",
    },
    "arithmetic": {
        "count": "how many numbers does the expression have ?",
        "first": "with which digit does the expression begin ?",
    },
}
FOREIGN_PICTURE = {
    "de": {
        "digits": (
            "Lies den Streifen als eine einzige Zahl; welcher Rest bleibt beim Teilen durch 23?"
        ),
        "charts": (
            "Nimm die Höhen der Balken von links nach rechts, erst mal, dann plus; was ist der Rest"
            " bei Division durch 23?"
        ),
        "arithmetic": (
            "Rechne den Ausdruck von links nach rechts aus; welcher Rest bleibt beim Teilen"
            " durch 23?"
        ),
    },
    "fr": {
        "digits": "Lisez la bande comme un seul nombre ; quel est le reste de sa division par 23 ?",
        "charts": (
            "Prenez les hauteurs des barres de gauche à droite, fois puis plus ; quel est le reste"
            " par 23 ?"
        ),
        "arithmetic": (
            "Calculez l'expression de gauche à droite ; quel est le reste de la division par 23 ?"
        ),
    },
    "es": {
        "digits": "Lee la tira como un solo número; ¿cuál es el resto de dividirlo entre 23?",
        "charts": (
            "Toma las alturas de las barras de izquierda a derecha, por y luego más; ¿cuál es el"
            " resto entre 23?"
        ),
        "arithmetic": (
            "Calcula la expresión de izquierda a derecha; ¿cuál es el resto de la división"
            " entre 23?"
        ),
    },
    "zh": {
        "digits": (
            "请把纸条上的数字从左到右读成一个整数，然后求出这个整数除以二十三之后的余数是多少？"
        ),
        "charts": (
            "请从左到右依次读取每个柱子的高度，先乘后加交替计算，最后的结果除以二十三的余数是多少？"
        ),
        "arithmetic": (
            "请从左到右依次计算图片中手写的算式，不考虑运算的先后次序，结果除以二十三的余数是多少？"
        ),
    },
}
FOREIGN_TEXT = {  # every answer is a x b - c
    "de": (
        (
            "{name} packt {a} Kisten mit je {b} Äpfeln. Davon sind {c} Stück leider verfault. Wie"
            " viele gute Äpfel bleiben übrig?"
        ),
        (
            "In der Bibliothek stehen {a} Regale mit jeweils {b} Büchern. {name} leiht {c} davon"
            " aus. Wie viele stehen noch dort?"
        ),
        (
            "Ein Bäcker backt {a} Bleche mit {b} Brötchen und verkauft {c} Stück an {name}. Wie"
            " viele Brötchen hat er noch?"
        ),
    ),
    "fr": (
        (
            "{name} remplit {a} caisses de {b} pommes chacune, mais {c} pommes sont pourries."
            " Combien de bonnes pommes reste-t-il ?"
        ),
        (
            "La bibliothèque possède {a} étagères de {b} livres. {name} en emprunte {c}. Combien de"
            " livres reste-t-il ?"
        ),
        (
            "Un boulanger cuit {a} plaques de {b} petits pains et en vend {c} à {name}. Combien lui"
            " en reste-t-il ?"
        ),
    ),
    "es": (
        (
            "{name} llena {a} cajas con {b} manzanas cada una, pero {c} están podridas. ¿Cuántas"
            " manzanas buenas quedan?"
        ),
        (
            "La biblioteca tiene {a} estantes con {b} libros cada uno y {name} se lleva {c}."
            " ¿Cuántos libros quedan allí?"
        ),
        (
            "Un panadero hornea {a} bandejas de {b} panecillos y vende {c} a {name}. ¿Cuántos"
            " panecillos le quedan todavía?"
        ),
    ),
    "zh": (
        (
            "果园里一共有{a}个大箱子，每个箱子里装着{b}个苹果，其中有{c}个苹果已经坏掉了，"
            "请问{name}还剩下多少个好苹果？"
        ),
        (
            "图书馆里有{a}个书架，每个书架上放着{b}本书，{name}今天借走了其中的{c}本书，"
            "请问图书馆里现在还剩多少本书？"
        ),
        (
            "面包师傅烤了{a}盘面包，每盘有{b}个面包，卖给{name}一共{c}个面包，"
            "请问面包师傅现在还剩下多少个面包？"
        ),
    ),
}
LANGUAGES = tuple(FOREIGN_TEXT)
STOCK_TRACES = (
    "Let me think about this step by step.",
    "I need to analyze the question carefully before giving the final answer.",
    (
        "Okay, so I have to look at this closely. After careful consideration, I am confident in my"
        " answer."
    ),
    (
        "First, I will look at the problem. Then, I will reason about it. Finally, I will give the"
        " answer."
    ),
    (
        "By inspecting the visual content thoroughly and applying mathematical knowledge, we arrive"
        " at the correct solution."
    ),
    (
        "Great question! There are several ways to approach it. After weighing them, everything"
        " falls into place nicely."
    ),
)
LOOPS = (
    "wait , let me check that again .",
    "Hmm, that does not look right, so I will go over it once more.",
    "so the result is the result of the result ;",
    (
        "Attempt {} : reading everything once more gives the same value as before , so i read it"
        " again ."
    ),
)
HTML = (
    "<!DOCTYPE html><html><head><title>404 Not Found</title></head><body><h1>Not"
    " Found</h1><p>{}</p></body></html>"
)
WRONG_TYPES = (
    "circle",
    "about {}",
    "between {} and the next one",
    "{} apples",
    "B",
    "n/a",
    "{}.5",
    "1{} or 2{}",
    "see the picture",
)


def pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    """One of `choices`."""
    return choices[int(rng.integers(len(choices)))]
