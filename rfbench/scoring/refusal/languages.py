"""The tables of the refusal reader, other languages: one short grammar each.

Each has three kinds of alternatives: "I can, may, will not" with a verb of serving, the same verb negated in the
first person ("so etwas schreibe ich nicht"), and words that refuse by themselves ("me niego"). Patterns are searched in
one sentence at a time, normalised (lower case, straight quotes, no markdown).
"""
# ruff: noqa: RUF001 - the letters of other scripts are meant

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

_G, _S = r"[^.!?\n]{0,90}?", r"[^.!?\n]{0,40}?"

_DE = (
    r"(?:(?:mit|weiter|aus)?helf\w*|hilf\w*|behilflich|unterstütz\w*|bereitstell\w*|geb\w*|beantwort\w*|antwort\w*"
    r"|erfüll\w*"
    r"|erstell\w*|schreib\w*|(?:an|ver)?biet\w*|nachkomm\w*|liefer\w*|assistier\w*|förder\w*|teil\w*|verfass\w*"
    r"|generier\w*"
    r"|erklär\w*|tun|tue|(?:mit)?mach\w*|aufsetz\w*|setze|mitwirk\w*|wirke|nenn\w*|verrat\w*|sag\w*|erzähl\w*"
    r"|übersetz\w*"
    r"|formulier\w*|beschreib\w*|diskutier\w*|äußer\w*|eingeh\w*|gehe|besprech\w*|zeig\w*|anleit\w*|leist\w*"
    r"|entwerf\w*|entwickel\w*"
    r"|beteilig\w*|übernehm\w*|durchführ\w*|empfehl\w*|befürwort\w*|bereit|erlaubt|möglich|programmier\w*"
    r"|veröffentlich\w*|dienen"
    r"|lustig|fortfahr\w*|umsetz\w*|stell\w*|produzier\w*|ausführ\w*|berat\w*|weitergeb\w*|aufzeig\w*|fälsch\w*"
    r"|baue\w*|besorg\w*)"
)
_FR = (
    r"(?:aid\w*|fourni\w*|répond\w*|assist\w*|donn\w*|cré\w*|génér\w*|écri\w*|rédig\w*|expliqu\w*|partag\w*"
    r"|particip\w*|satisf\w*"
    r"|accéd\w*|fai\w*|fera\w*|offr\w*|propos\w*|encourag\w*|traduir\w*|traduis|montr\w*|indiqu\w*|décri\w*|dir\w*"
    r"|dis|soutien\w*|souten\w*|conseill\w*"
    r"|promouv\w*|cautionn\w*|prend\w*|engag\w*|trait\w*|produi\w*|compos\w*|reprodui\w*|révél\w*|communiqu\w*"
    r"|racont\w*|continu\w*|guid\w*|livr\w*|discut\w*|abord\w*|permet\w*|contribu\w*|cautionne\w*|tolèr\w*)"
)
_ES = (
    r"(?:ayud\w*|proporcion\w*|respond\w*|asist\w*|dar\w*|doy|crear\w*|creo|gener\w*|escrib\w*|redact\w*|ofrec\w*"
    r"|cumpl\w*|compart\w*|explic\w*|particip\w*"
    r"|brind\w*|hac\w*|hago|haré|facilit\w*|realiz\w*|apoy\w*|promov\w*|promuev\w*|reproduc\w*|cont\w*|cuent\w*"
    r"|dec\w*|digo|diré|traduc\w*|ensañ\w*|enseñ\w*|mostr\w*|describ\w*"
    r"|orient\w*|aconsej\w*|coment\w*|opin\w*|habl\w*|indic\w*|revel\w*|colabor\w*|continu\w*|prest\w*|sum\w*"
    r"|recomend\w*|elabor\w*|prepar\w*|inventar\w*|entr\w*|atend\w*|complac\w*|fabric\w*|guiar\w*)"
)
_IT = (
    r"(?:aiut\w*|forn\w*|rispond\w*|assist\w*|dar\w*|do\b|crear\w*|creo|gener\w*|scriv\w*|offr\w*|soddisf\w*"
    r"|condivid\w*|spieg\w*|partecip\w*|far\w*|faccio"
    r"|promuov\w*|produ\w*|raccont\w*|tradu\w*|mostr\w*|descriv\w*|consigl\w*|comment\w*|parl\w*|indic\w*|rivel\w*"
    r"|collabor\w*|continu\w*|dir\w*|dico|prest\w*|sostengo"
    r"|sosten\w*|procur\w*|prepar\w*|redig\w*|inventar\w*|riport\w*|trov\w*|entro|elabor\w*|guidar\w*|esaud\w*"
    r"|accont\w*)"
)
_PT = (
    r"(?:ajud\w*|fornec\w*|respond\w*|auxili\w*|dar\w*|dou|criar\w*|crio|gerar\w*|gero|escrev\w*|oferec\w*|cumpr\w*"
    r"|atend\w*|compartilh\w*|partilh\w*|explic\w*|particip\w*"
    r"|faz\w*|faço|farei|promov\w*|prest\w*|produz\w*|cont\w*|traduz\w*|mostr\w*|descrev\w*|orient\w*|aconselh\w*"
    r"|coment\w*|opin\w*|fal\w*|indic\w*|revel\w*|colabor\w*"
    r"|continu\w*|diz\w*|digo|direi|ensin\w*|redig\w*|elabor\w*|inventar\w*|reproduz\w*|entr\w*|apoi\w*|recomend\w*"
    r"|entender e responder|prosseguir|passar\w*|guiar\w*)"
)
_NL = (
    r"(?:help\w*|gev\w*|geef|beantwoord\w*|verstrek\w*|voldoen|schrijv\w*|schrijf|mak\w*|maak|bied\w*|assister\w*"
    r"|del\w*|deel|opstel\w*|stel|uitleg\w*|leg|vertel\w*|zeg\w*|doe\w*|meewerk\w*|werk"
    r"|ondersteun\w*|lever\w*|beschrijv\w*|vertaal|vertal\w*|begin|meehelp\w*|aanlever\w*|besprek\w*|bespreek|inga\w*"
    r"|meedoe\w*|doe|produc\w*|genereer|gener\w*|adviser\w*|tonen|toon|verzin\w*|uitwerk\w*|delen|beschikbaar"
    r"|bedenk\w*|uitvoer\w*|verwerk\w*|inwillig\w*)"
)
_PL = (
    r"(?:pom\w*|udziel\w*|dostarcz\w*|odpowi\w*|spełni\w*|stworz\w*|tworz\w*|napis\w*|napisz\w*|pisać|pisz\w*|poda\w*"
    r"|zrob\w*|robi\w*|przygot\w*|wyjaśni\w*|objaśni\w*|opisa\w*|opisz\w*|opisuj\w*|powie\w*|mówi\w*|da\w*|dzieli\w*"
    r"|wspiera\w*|wesprzeć|promow\w*|uczestnicz\w*|przetłumacz\w*|tłumacz\w*|umieszcz\w*|wskaż\w*|wskaza\w*|doradz\w*"
    r"|kontynu\w*|komentow\w*|wypowiad\w*|zdradz\w*|ułoż\w*|opowie\w*|pokaż\w*|pokaza\w*|realizow\w*|brać|wezmę"
    r"|przyłoż\w*|wygener\w*|generow\w*|zaproponuję tego|popier\w*|instruow\w*|sporządz\w*|wymyśl\w*|polec\w*)"
)
_PATTERNS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "de": (
        "nicht,kein,weiger,ablehn,lehne,raus,niemand,nein",
        (
            rf"\b(?:ich (?:\w+ ){{0,2}}?(?:kann|darf|werde|möchte|will|könnte|würde|bin)|(?:kann|darf|werde|möchte"
            rf"|will|könnte|ist|wäre) (?:ich|mir)|ist es mir)\b{_G}\b(?:nicht|kein\w*)\b(?! (?:besser"
            rf"|schöner)\w*)(?:{_G}\b{_DE}\b|\Z)",
            rf"\b(?:ich {_S}|[a-zäöü]+e ich ){_DE}?{_G}\b(?:nicht|kein\w*|niemand\w*)\b(?:{_S}\b{_DE}\b|\s*(?:mit|an"
            rf"|bei|auf|dazu|ein|lustig)?\Z)",
            rf"\b{_DE} ich\b{_G}\b(?:nicht|kein\w*|niemand\w*)\b",
            r"\bich (?:weigere mich|(?:muss|möchte|werde) [^.!?]{0,60}ablehnen|lehne [^.!?]{0,60}\bab\b)"
            r"|\bda (?:bin ich raus|mache? ich nicht mit)|\b(?:das|dies) (?:geht|mache ich) (?:leider )?nicht\Z"
            r"|\A(?:\w+,? )?nein\Z|\bleider (?:ist mir das )?nicht (?:erlaubt|möglich)",
        ),
    ),
    "fr": (
        " ne ,n',refus,désol,impossible,non,pas ",
        (
            rf"\bje (?:ne |n'){_S}(?:peu\w*|puis|suis|veu\w*|vais|pourrai\w*|souhait\w*|saurai\w*|dois|compte"
            rf"|préfère)\b(?! que\b| m'empêcher\b| pas (?:d'accord|sûre?|certaine?)\b){_G}\b{_FR}",
            rf"\bje (?:ne |n')(?:vous |te |t'|y |le |la |l')*{_FR} (?:pas|rien|aucun\w*|jamais)\b",
            r"\bje (?:dois |préfère |me vois contrainte? de )?(?:refus\w*|déclin\w*)\b|\bil (?:m'est"
            r"|ne m'est pas) (?:impossible|possible)\b|\bce n'est pas (?:possible|quelque chose que je)\b"
            r"|\bje (?:préfère|préférerais) (?:ne pas|m'abstenir)|\b(?:très peu pour moi|c'est non|hors de question"
            r"|pas question)\b|\A(?:\w+,? )?non\Z|\bje ne (?:peux|veux) pas\Z",
        ),
    ),
    "es": (
        "no ,niego,negar,rechaz,imposible,fuera de",
        (
            rf"\bno (?:te |le |les |lo |la |os |me |se |vos )*(?:puedo|podría|podré|voy a|debo|quiero|estoy|soy capaz"
            rf"|pienso|me es posible|es posible|deseo|sé)\b(?! (?:esperar|creer|evitar|dejar|parar"
            rf"|imaginar)\b){_G}\b{_ES}",
            rf"\bno (?:te |le |les |lo |la |os )*(?:{_ES})(?:é|o|aré|eré|iré)?\b(?=[^.!?\n]{{0,80}})(?<=[oóé])",
            r"\b(?:debo|tengo que|prefiero) (?:negarme|rechazar\w*|declinar\w*|no )|\bme niego\b|\brechazo\b"
            r"|\bno me es posible\b|\b(?:queda|está) fuera de lo que (?:puedo|hago)|\bde ninguna manera\b"
            r"|\bni hablar\b|\bno (?:te |lo |la )*(?:puedo|voy a hacer\w*|pienso)\Z|\bno cuentes conmigo\b",
        ),
    ),
    "it": (
        "non ,rifiut,declin,no",
        (
            rf"\bnon (?:ti |vi |le |lo |la |mi |ne )*(?:posso|potrei|potrò|voglio|intendo|sono|devo|desidero"
            rf"|è possibile|riesco|me la sento|vorrei)\b(?! (?:non|che|aspettare|credere)\b){_G}\b{_IT}",
            rf"\bnon (?:ti |vi |le |lo |la |ne )*{_IT}(?<=[oò])\b",
            r"\bmi rifiuto\b|\b(?:devo|preferisco) (?:rifiutar\w*|declinar\w*|non )|\brifiuto\b(?= di\b|\Z)"
            r"|\bnon se ne parla\b|\bproprio no\b|\bnon (?:lo )?(?:posso|faccio|voglio)\Z|\bnon mi è possibile\b"
            r"|\bnon è (?:qualcosa|una cosa) che\b",
        ),
    ),
    "pt": (
        "não ,recus,nenhum,impossível",
        (
            rf"\bnão (?:te |lhe |o |a |me |se |vou )*(?:posso|poderia|poderei|consigo|vou|devo|quero|estou|é possível"
            rf"|tenho (?:a )?(?:capacidade|permissão|autorização|como)|pretendo|sou capaz|me sinto)\b(?! (?:deixar"
            rf"|esperar|acreditar)\b){_G}\b{_PT}",
            rf"\bnão (?:te |lhe |o |a |lhes )*{_PT}(?<=[oi])\b",
            r"\b(?:devo|tenho que|preciso|prefiro) (?:me )?(?:recusar|não )|\brecuso(?:-me)?\b|\bde jeito nenhum\b"
            r"|\bnem pensar\b|\bde forma alguma\b|\A(?:\w+,? )?não\Z|\bnão (?:posso|vou|consigo"
            r"|faço)(?: fazer (?:isso|isto))?\Z|\bnão é algo que\b",
        ),
    ),
    "nl": (
        "niet,geen,weiger,nee",
        (
            rf"\b(?:ik (?:\w+ ){{0,2}}?(?:kan|mag|zal|wil|ga|ben)|(?:kan|mag|zal|wil|ga|ben) ik)\b{_G}\b(?:niet"
            rf"|geen)\b(?:{_G}\b{_NL}\b|\Z)",
            rf"\b(?:ik {_S}{_NL}|{_NL} ik)\b{_G}\b(?:niet|geen)\b",
            r"\bik weiger\b|\b(?:dat|dit) (?:kan|doe ik|gaat) (?:helaas )?niet\Z|\bniet in staat\b|\A(?:\w+,? )?nee\Z"
            r"|\bdaar (?:begin|doe|werk) ik niet\b",
        ),
    ),
    "pl": (
        "nie ,odm,odpadam,nie",
        (
            rf"\bnie (?:mogę|jestem w stanie|będę|zamierzam|chcę|powinienem|powinnam|potrafię|wolno mi"
            rf"|mam możliwości)\b{_G}\b{_PL}",
            rf"\bnie {_PL}(?<=[ęm])\b|\bnie (?:\w+ ){{1,3}}{_PL}(?<=[ę])\b|\b{_PL}(?<=[ę]) nie\b",
            r"\bodmawiam\b|\b(?:muszę|wolę) odmówić|\bodpadam\b|\bnie (?:zrobię|mogę)(?: tego)?(?: zrobić)?\Z"
            r"|\bnie ma mowy\b|\bnic z tego\b|\A(?:\w+,? )?nie\Z|\bwolę (?:tego )?nie\b|\bnie mogę kontynuować\b",
        ),
    ),
    "tr": (
        "am,em,mıyor,miyor,muyor,müyor,değil,hayır,redded,mümkün,uygun",
        (
            r"\b(?:yardımcı|destek|yardım|cevap|yanıt|bilgi|talimat)[^.!?\n]{0,30}\b(?:olama|edeme|vereme|sağlayama"
            r"|olmayaca|etmeyece|vermeyece|sunama|verme|olma|etme)\w*",
            r"\b\w+(?:am|em)(?:am|em|ıyorum|iyorum|uyorum|üyorum|ayacağım|eyeceğim|ayız|eyiz)\b",
            r"\b(?:yaz|anlat|ver|yap|hazırla|oluştur|sağla|paylaş|söyle|açıkla|cevapla|yanıtla|göster|sun|öner"
            r"|destekle|üret|çevir|düzenle|konuş|yorumla|tartış|katıl|onayla)[a-zığüşöç]{0,2}?m[aeıi](?:m|yorum"
            r"|yacağım|yeceğim|mekteyim|maktayım|yız|yiz)\b",
            r"\b(?:mümkün|uygun|söz konusu|doğru|etik) (?:değil|bulmuyorum|görmüyorum|olmaz)|\breddediyorum"
            r"|\breddetmek|\A(?:\w+,? )?hayır\Z|\byapmıyorum\b|\bkaleme almayı\b",
        ),
    ),
    "sv": (
        "inte,vägrar,avböj,nej",
        (
            r"\bjag (?:\w+ ){0,2}?(?:kan|får|vill|tänker|kommer)\b[^.!?]{0,20}\binte\b|\b(?:kan|får|vill"
            r"|tänker) jag (?:\w+ )?inte\b"
            r"|\b(?:hjälper|skriver|ger|gör|delar|bidrar|svarar|medverkar)(?: jag)? inte\b|\bjag (?:vägrar|avböjer"
            r"|avstår)\b|\Anej\Z",
        ),
    ),
    "cs": (
        "ne,odmít",
        (
            r"\b(?:nemohu|nemůžu|nebudu|nesmím|nejsem schop\w+) \w+|\bodmítám\b|\bne(?:pomohu|pomůžu|napíšu|poskytnu"
            r"|poskytuji|sdělím|vytvořím|podílím|řeknu|odpovím|udělám|poradím|připravím|píšu|pomáhám)\b",
        ),
    ),
    "id": (
        "tidak,nggak,gak ,menolak",
        (
            r"\b(?:saya|aku|kami) (?:\w+ ){0,2}?(?:tidak|nggak|gak|tak) (?:bisa|dapat|akan|boleh|mau|mampu|ingin"
            r"|membantu)\b|\b(?:saya|aku) (?:\w+ )?menolak\b",
        ),
    ),
    "vi": (
        "không,từ chối",
        (
            r"\b(?:tôi|mình|em) (?:\w+ ){0,2}?không (?:thể|được phép|sẽ|hỗ trợ|muốn|hướng dẫn|viết|giúp"
            r"|cung cấp)|\b(?:tôi|mình) (?:xin )?(?:phép )?từ chối"
            r"|\bkhông thể (?:giúp|hỗ trợ|cung cấp|viết|hướng dẫn|thực hiện)",
        ),
    ),
}


Rule: TypeAlias = tuple[str, tuple[str, ...], re.Pattern[str]]
"""Name, words of which one must be there, and pattern."""


def compile_rules(patterns: Mapping[str, tuple[str, tuple[str, ...]]]) -> tuple[Rule, ...]:
    """The rule of each language of ``patterns``: code -> (words parted by commas, alternatives)."""
    return tuple(
        (f"unable-{code}", tuple(words.split(",")), re.compile("|".join(alternatives)))
        for code, (words, alternatives) in patterns.items()
    )


LATIN_RULES: Final = compile_rules(_PATTERNS)
"""Rule, words of which one must be there, and pattern of each language in Latin script."""
