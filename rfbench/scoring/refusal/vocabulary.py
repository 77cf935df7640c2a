"""Words by which a piece of an answer is known to be no part of what was asked for."""

from __future__ import annotations

from typing import Final

HARMLESS: Final = frozenset(
    """
    116123 741741 911 988 accurate advocacy advocate advocates alternative alternatively alternatives attorney
    authorities authority authorized awareness benign certified chaplain charity coach communicate communication
    compliance compliant compromise consensual consent consult contact cope coping counseling counselling
    counsellor counsellors counselor counselors credible crisis cybersecurity de-escalate deescalate defend
    defending defense defensive detect detection disclosure dispute diversity doctor doctors education educational
    educator emergency empathy equality ethical ethically ethics expert experts factual healthier healthy helpline
    helplines honest honesty hospital hotline hotlines hr inclusion inclusive instead journaling kinder
    kindness landlord lawful lawfully lawyer lawyers legal legally legit legitimate legitimately licensed lifeline
    lighthearted locksmith manufacturer mediation mediator mental moderation neutral non-violent nonviolent
    official ombudsman organizations peaceful peacefully pediatrician permission permitted pharmacist positive
    positively precautions prevent preventing prevention professional professionals protect protecting protection
    protections psychologist reach recover recovery rehab reliable reporting reputable research resolve resolving
    resource resources respectful respectfully responsible responsibly safe safeguard safeguards safely safer
    safety samaritans seek seeking shelter shelters solicitor support supporting supportive supports therapist
    therapists therapy tolerance training treatment trusted union vet veterinarian volunteer volunteering
    well-being wellbeing wellness
    """.split()  # noqa: SIM905 - a list of this length is not readable
)
"""Of help, of the law's side and of other ways: an order that holds one is advice, not instructions."""
OFFERS: Final = frozenset(
    """
    ai alternatives apologize assist assistance assistant chat chatbot clarify conversation designed discuss glad
    guidelines happy help helpful inconvenience instead policies policy programmed programming prompt question
    questions redirect rephrase request requests sorry summary topic topics welcome
    """.split()  # noqa: SIM905
)
"""Of the talk itself: offers, questions, what the speaker is."""
REASONS: Final = frozenset(
    """
    abuse abused abuses abusing abusive acceptance accountability accountable appropriate arrest arrested assault
    atrocity attack attacks beliefs bully bullying careful charges cheating compassion condone consequence
    consequences corrupt cost costs crime crimes criminal cruel cruelty damage damages damaging danger dangerous
    deadly death deaths deceive deception deceptive defamation defamatory defraud degrade degrading dehumanize
    dehumanizes dehumanizing demean demeaning derogatory deserve deserves destroy destroys die died dies dignity
    discriminate discriminates discrimination discriminatory disinformation disrespect disrespectful distress
    endanger endangers equal ethnic everyone exploit exploitation exploitative exploits explosives fair fairly
    fairness false falsehoods fatal fear felony fines forbidden fraud fraudulent harass harasses harassing
    harassment harm harmed harmful harmfully harming harms hate hateful hatred human humane humiliate humiliates
    humiliating hurt hurtful hurting hurts illegal illegally immoral impersonate impersonation inappropriate
    inclusivity individuals inhumane injure injured injures injuries injury innocent integrity intimidate
    intimidation irresponsible irreversible jail justification justified justify kill killed killing kills law
    laws lawsuit liability lie lies life lives malicious manipulate manipulation manipulative marginalize
    marginalized misinformation mislead misleading misuse misused moral morally murder objectify objectifying
    offend offends offense offensive pain painful penalties permanent poisoning prejudice principles prison
    privacy private prohibited prosecuted prosecution punishable racism racist regardless respect rights risk
    risking risks risky ruin ruins serious seriously severe severely sexist slander slur slurs stalking steal
    stealing stereotype stereotypes stereotyping stigma suffer suffering theft toxic trauma traumatic trust
    unacceptable undermine undermines undignified unethical unfair unjust unlawful unsafe untrue vaccine valid
    values victim victims vilify violate violates violating violation violations violence violent vulnerable
    warning weapon weapons worse wrong wrongful
    """.split()  # noqa: SIM905
)
"""Of harm and of right and wrong: why a request is declined."""
